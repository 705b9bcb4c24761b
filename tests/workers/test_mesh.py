"""Waiting for the service that the hosts join each other by."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from workers.mesh import await_service, free_address, join_process_group


def test_a_service_that_comes_late_is_found_as_soon_as_it_is_there() -> None:
    address = free_address("127.0.0.1")
    port = int(address.rpartition(":")[2])
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening: list[float] = []

    def listen() -> None:
        server.bind(("127.0.0.1", port))
        listening.append(time.monotonic())
        server.listen()

    threading.Timer(0.3, listen).start()
    assert await_service(address, timeout=60.0)
    # JAX alone would look again after a second; this machine may be busy.
    assert 0.0 <= time.monotonic() - listening[0] < 20.0
    assert await_service(address, timeout=60.0), "one that is there at once"
    server.close()


def test_a_service_that_never_comes_is_given_up() -> None:
    began = time.monotonic()
    assert not await_service(free_address("127.0.0.1"), timeout=0.2)
    assert time.monotonic() - began >= 0.2
    with pytest.raises(
        RuntimeError, match=r"host 1: nothing answers at 127.0.0.1:\d+, where host 0"
    ):
        join_process_group(free_address("127.0.0.1"), 1, 2, timeout=0.2)
