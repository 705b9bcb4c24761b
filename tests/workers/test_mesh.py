"""Waiting for the service that the hosts join each other by."""

from __future__ import annotations

import socket
import threading
import time

from workers.mesh import await_service, free_address


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
    assert listening and time.monotonic() >= listening[0]
    assert await_service(address, timeout=60.0), "one that is there at once"
    server.close()


def test_a_service_that_never_comes_is_given_up() -> None:
    began = time.monotonic()
    assert not await_service(free_address("127.0.0.1"), timeout=0.2)
    assert not await_service("nowhere.invalid:80", timeout=0.2)
    assert time.monotonic() - began >= 0.4
