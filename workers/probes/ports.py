"""Whether nodes can connect to each other, on ports such as JAX's coordinator and gloo take.

Those come from the system's range of ephemeral ports. A firewall that lets Ray's ports through may
well close that range.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from workers.probes.facts import Peer

__all__ = ["Ear", "reach"]

_AT_ONCE = 32
"""Connections that are tried at the same time."""


class Ear:
    """Listens on a free port, and greets whoever connects.

    Args:
        greeting: What it says, so that nobody takes another server for it.

    Attributes:
        port: Where it listens, on all addresses of this machine.
    """

    def __init__(self, greeting: str) -> None:
        self._greeting = greeting.encode()
        self._socket = socket.socket()
        self._socket.bind(("", 0))
        self._socket.listen(128)
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True, name="ear").start()

    def close(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which a close does not
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection, suppress(OSError):
                connection.sendall(self._greeting)


def reach(peers: Sequence[Peer], greeting: str, seconds: float) -> dict[str, str]:
    """Connect to all of them.

    Args:
        peers: Nodes with an ``Ear``.
        greeting: What they must say.
        seconds: Longest wait for each.

    Returns:
        Names of the peers that could not be reached, each with the reason.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        troubles = pool.map(lambda peer: _trouble(peer, greeting.encode(), seconds), peers)
        return {peer.name: said for peer, said in zip(peers, troubles, strict=True) if said}


def _trouble(peer: Peer, greeting: bytes, seconds: float) -> str:
    """Why a peer cannot be reached; empty if it can."""
    try:
        with socket.create_connection((peer.address, peer.port), timeout=seconds) as connection:
            said = b""
            while len(said) < len(greeting):
                more = connection.recv(len(greeting) - len(said))
                if not more:
                    break
                said += more
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return "" if said == greeting else "another server answers"
