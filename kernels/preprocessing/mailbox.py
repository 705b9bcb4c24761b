"""What the other processes of an all-reduce have sent, and the thread that receives it."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

from kernels.errors import AllReduceError

__all__ = ["HELLO", "MAGIC", "VALUE", "Mailbox", "serve"]

MAGIC = b"emberay1"
HELLO = struct.Struct("<8sII")
"""Magic, host id, host count."""
VALUE = struct.Struct("<qQ")
"""Key, value."""


class Mailbox:
    """Values by host and key, and which hosts are gone. Safe for threads."""

    def __init__(self, host_id: int, host_count: int) -> None:
        """Wait for all hosts but ``host_id``."""
        self._host_id = host_id
        self._host_count = host_count
        self._changed = threading.Condition()
        self._values: defaultdict[tuple[int, int], deque[int]] = defaultdict(deque)
        self._present: set[int] = set()
        self._gone: set[int] = set()
        self._failure: str | None = None

    def welcome(self, host: int, host_count: int) -> bool:
        """Whether the host that says hello is one we wait for; else every exchange fails."""
        with self._changed:
            if host_count != self._host_count:
                self._fail(
                    f"all-reduce: host {host} counts {host_count} hosts, but host {self._host_id} "
                    f"counts {self._host_count}; start all with the same host_count"
                )
            elif host >= host_count or host == self._host_id or host in self._present:
                self._fail(
                    f"all-reduce: a second process says it is host {host}; give every process its "
                    "own host_id"
                )
            else:
                self._present.add(host)
                self._gone.discard(host)
                return True
            return False

    def put(self, host: int, key: int, value: int) -> None:
        """Keep a value until it is collected."""
        with self._changed:
            self._values[host, key].append(value)
            self._changed.notify_all()

    def leave(self, host: int) -> None:
        """The host has closed its connection: nothing more comes from it."""
        with self._changed:
            self._present.discard(host)
            self._gone.add(host)
            self._changed.notify_all()

    def fail(self, message: str) -> None:
        """Let every exchange fail, from now on and those that wait."""
        with self._changed:
            self._fail(message)

    def check(self) -> None:
        """Raise if exchanges must fail.

        Raises:
            AllReduceError: With the message given to `fail`.
        """
        with self._changed:
            self._check()

    def collect(self, key: int, value: int, deadline: float, timeout: float) -> int:
        """``value`` OR the values of all other hosts for a key, which are taken out.

        Args:
            key: The exchange.
            value: This host's value.
            deadline: When to give up, by `time.monotonic`.
            timeout: The seconds that were given, for the message.

        Raises:
            AllReduceError: If a host is gone, or its value has not come before the deadline.
        """
        others = [host for host in range(self._host_count) if host != self._host_id]
        with self._changed:
            while True:
                self._check()
                missing = [host for host in others if not self._values.get((host, key))]
                if not missing:
                    break
                gone = [host for host in missing if host in self._gone]
                if gone:
                    raise AllReduceError(
                        f"all-reduce {key}: {_hosts(gone)} ended without giving a value; "
                        "the error there says why"
                    )
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AllReduceError(
                        f"all-reduce {key}: {_hosts(missing)} gave no value within {timeout:g} s; "
                        "check that all hosts run, preprocess the same batches in the same order "
                        "and number them alike (batch_number)"
                    )
                self._changed.wait(left)
            for host in others:
                values = self._values[host, key]
                value |= values.popleft()
                if not values:
                    del self._values[host, key]
        return value

    def _fail(self, message: str) -> None:
        self._failure = self._failure or message
        self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise AllReduceError(self._failure)


def _hosts(numbers: list[int]) -> str:
    return ("host " if len(numbers) == 1 else "hosts ") + ", ".join(map(str, numbers))


@dataclass
class _Sender:
    """A connection from another host."""

    connection: socket.socket
    host: int | None = None
    received: bytearray = field(default_factory=bytearray)


def serve(listener: socket.socket, wake: socket.socket, mailbox: Mailbox) -> None:
    """Receive until the other end of ``wake`` is closed. Runs in a thread of its own."""
    with selectors.DefaultSelector() as selector, listener, wake:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        senders: list[_Sender] = []
        try:
            while True:
                for event, _ in selector.select():
                    if event.fileobj is wake:
                        return
                    if event.fileobj is listener:
                        sender = _accepted(listener)
                        if sender is not None:
                            senders.append(sender)
                            selector.register(sender.connection, selectors.EVENT_READ, sender)
                    elif not _receive(event.data, mailbox):
                        selector.unregister(event.fileobj)
                        senders.remove(event.data)
                        _dismiss(event.data, mailbox)
        finally:
            for sender in senders:
                _dismiss(sender, mailbox)


def _accepted(listener: socket.socket) -> _Sender | None:
    try:
        connection, _ = listener.accept()
    except OSError:  # whoever connected is gone already
        return None
    connection.setblocking(False)
    return _Sender(connection)


def _receive(sender: _Sender, mailbox: Mailbox) -> bool:
    """Take what has come; False ends the connection."""
    try:
        data = sender.connection.recv(65536)
    except BlockingIOError:
        return True
    except OSError:
        return False
    if not data:
        return False
    received = sender.received
    received += data
    host = sender.host
    if host is None:
        if len(received) < HELLO.size:
            return MAGIC.startswith(bytes(received[: len(MAGIC)]))
        magic, host, host_count = HELLO.unpack_from(received)
        del received[: HELLO.size]
        if magic != MAGIC or not mailbox.welcome(host, host_count):
            return False
        sender.host = host
    while len(received) >= VALUE.size:
        key, value = VALUE.unpack_from(received)
        mailbox.put(host, key, value)
        del received[: VALUE.size]
    return True


def _dismiss(sender: _Sender, mailbox: Mailbox) -> None:
    sender.connection.close()
    if sender.host is not None:
        mailbox.leave(sender.host)
