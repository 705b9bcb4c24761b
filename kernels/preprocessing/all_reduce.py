"""A small all-reduce between processes, over TCP: how they agree on minibatches.

Every process listens on a port and opens one connection to every other one. To all-reduce a number
it sends it to all, and waits until all have sent theirs:

    hello   magic "emberay1", host id, host count     8 + 4 + 4 bytes, once per connection
    value   key, value                                8 + 8 bytes, little-endian

Every wait has a deadline. A process that ends closes its connections, which the others see at
once. Whoever connects without the magic is turned away; the port should be reachable by the other
hosts alone nevertheless, as nothing is encrypted.
"""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Sequence

import jax

from kernels.errors import AllReduceError, SpecError
from kernels.preprocessing.mailbox import HELLO, MAGIC, VALUE, Mailbox, serve

__all__ = ["DEFAULT_TIMEOUT", "TcpAllReduce", "get_all_reduce_interface"]

DEFAULT_TIMEOUT: float = 60.0
"""Seconds to wait for the other processes."""

_RETRY_SECONDS = 0.05


def get_all_reduce_interface(
    peer_addresses: Sequence[str],
    minibatching_port: int,
    host_id: int | None = None,
    host_count: int | None = None,
) -> TcpAllReduce:
    """Link this process to the others, for minibatching.

    Returns at once: connections are made by the first exchange, so that processes may start in any
    order. `TcpAllReduce` takes another timeout than `DEFAULT_TIMEOUT`.

    Args:
        peer_addresses: Addresses of the *other* processes, in any order: ``host:port``,
            ``ipv4:port`` or ``[ipv6]:port``.
        minibatching_port: Where this process listens, on all its interfaces.
        host_id: Number of this process; None asks `jax.process_index`.
        host_count: How many processes there are; None asks `jax.process_count`.

    Raises:
        SpecError: If numbers and addresses do not fit together.
        AllReduceError: If the port is taken.

    Example:
        On the second of two hosts:

        >>> link = get_all_reduce_interface(["10.0.0.1:4711"], 4711, host_id=1, host_count=2)
    """
    if host_id is None:
        host_id = jax.process_index()
    if host_count is None:
        host_count = jax.process_count()
    return TcpAllReduce(host_id, host_count, peer_addresses, minibatching_port)


class TcpAllReduce:
    """The link of one process to the others; close it, or use it as a context manager.

    May be used by several threads at a time, for different keys.
    """

    def __init__(
        self,
        host_id: int,
        host_count: int,
        peer_addresses: Sequence[str],
        port: int,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Start to listen.

        Args:
            host_id: Number of this process, 0 to ``host_count - 1``.
            host_count: How many processes there are.
            peer_addresses: Addresses of the others.
            port: Where to listen; 0 takes a free one (see `port`).
            timeout: Seconds an exchange waits for the others.

        Raises:
            SpecError: If numbers and addresses do not fit together.
            AllReduceError: If the port is taken.
        """
        if not 0 <= host_id < host_count:
            raise SpecError(f"host_id {host_id} must be 0 to host_count - 1 ({host_count - 1})")
        if len(peer_addresses) != host_count - 1:
            raise SpecError(
                f"peer_addresses {list(peer_addresses)} name {len(peer_addresses)} hosts, but "
                f"host_count is {host_count}; give the {host_count - 1} other hosts' addresses"
            )
        self.host_id = host_id
        self.host_count = host_count
        self.timeout = timeout
        self._addresses = {address: _split(address) for address in peer_addresses}
        self._mailbox = Mailbox(host_id, host_count)
        self._sending = threading.Lock()
        self._connections: dict[str, socket.socket] = {}
        self._listener = _listen(port) if peer_addresses else None
        wake, waker = socket.socketpair()
        self._finalizer = weakref.finalize(self, _close, self._connections, waker, self._mailbox)
        if self._listener is None:
            wake.close()
            return
        threading.Thread(
            target=serve,
            args=(self._listener, wake, self._mailbox),
            name=f"all-reduce of host {host_id}",
            daemon=True,
        ).start()

    @property
    def port(self) -> int | None:
        """The port this process listens on; None if it is the only one."""
        return None if self._listener is None else self._listener.getsockname()[1]

    def all_reduce(self, key: int, value: int) -> int:
        """The bitwise OR of the values that all processes give for a key.

        Args:
            key: Which exchange this is, the same on all processes; not used by two exchanges at a
                time.
            value: At least 0, below ``2**64``.

        Raises:
            AllReduceError: If another process cannot be reached, ends, or does not give its value
                before the deadline.
        """
        if not 0 <= value < 2**64:
            raise SpecError(f"all-reduce: the value {value} must be at least 0 and below 2**64")
        deadline = time.monotonic() + self.timeout
        for address in self._addresses:
            self._send(address, VALUE.pack(key, value), deadline)
        return self._mailbox.collect(key, value, deadline, self.timeout)

    def close(self) -> None:
        """End the link: this process's further exchanges, and those that wait for it, fail."""
        self._finalizer()

    def __enter__(self) -> TcpAllReduce:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, address: str, message: bytes, deadline: float) -> None:
        with self._sending:
            self._mailbox.check()
            try:
                if address not in self._connections:
                    self._connections[address] = self._connect(address, deadline)
                connection = self._connections[address]
                connection.settimeout(max(deadline - time.monotonic(), _RETRY_SECONDS))
                connection.sendall(message)
            except OSError as error:
                raise AllReduceError(
                    f"all-reduce: host {self.host_id} cannot send to {address} ({error}): the "
                    "process there has ended, or hangs; its own error says why"
                ) from error

    def _connect(self, address: str, deadline: float) -> socket.socket:
        """Connect, again and again until the deadline: the other may not listen yet."""
        while True:
            left = deadline - time.monotonic()
            try:
                connection = socket.create_connection(self._addresses[address], max(left, 0.001))
            except OSError as error:
                if deadline - time.monotonic() > _RETRY_SECONDS:
                    time.sleep(_RETRY_SECONDS)
                    self._mailbox.check()
                    continue
                raise AllReduceError(
                    f"all-reduce: host {self.host_id} cannot reach {address} within "
                    f"{self.timeout:g} s ({error}); is a process started there, does it listen on "
                    "that port, and does the firewall let it through?"
                ) from error
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(HELLO.pack(MAGIC, self.host_id, self.host_count))
            return connection


def _split(address: str) -> tuple[str, int]:
    """Host and port of an address."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise SpecError(
            f"peer address '{address}' is not host:port; give for example 10.0.0.2:4711 or "
            "[fd00::2]:4711"
        )
    return host.removeprefix("ipv4:").removeprefix("[").removesuffix("]"), int(port)


def _listen(port: int) -> socket.socket:
    try:
        try:
            family = socket.AF_INET6
            return socket.create_server(("", port), family=family, dualstack_ipv6=True)
        except (OSError, ValueError):  # no IPv6 here, or the port is taken
            return socket.create_server(("", port))
    except (OSError, OverflowError) as error:
        raise AllReduceError(
            f"all-reduce: cannot listen on port {port} ({error}); choose a free minibatching_port"
        ) from error


def _close(connections: dict[str, socket.socket], waker: socket.socket, mailbox: Mailbox) -> None:
    """Close everything; knows nothing of the object it belonged to, so that it can be collected."""
    mailbox.fail("all-reduce: this link is closed")
    waker.close()  # ends the serving thread, which closes what it reads from
    for connection in list(connections.values()):
        connection.close()
