"""The all-reduce between processes: right, and never a hang."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.preprocessing.mailbox import HELLO, MAGIC, VALUE

LOCAL = "localhost:{}"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def make_links(count: int, timeout: float = 20.0) -> list[kernels.TcpAllReduce]:
    """The links of several processes, here in one."""
    ports = free_ports(count)
    return [
        kernels.TcpAllReduce(
            host,
            count,
            [LOCAL.format(port) for other, port in enumerate(ports) if other != host],
            ports[host],
            timeout=timeout,
        )
        for host in range(count)
    ]


@pytest.fixture
def links() -> Iterator[Callable[..., list[kernels.TcpAllReduce]]]:
    """Makes links and closes them."""
    made: list[kernels.TcpAllReduce] = []

    def make(count: int, timeout: float = 20.0) -> list[kernels.TcpAllReduce]:
        made.extend(new := make_links(count, timeout))
        return new

    yield make
    for link in made:
        link.close()


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Results or errors of calls that run at the same time."""

    def caught(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except kernels.EmberayError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(caught, calls))


@given(st.integers(2, 5), st.data())
@settings(max_examples=8, deadline=None)
def test_all_processes_get_the_or_of_all_values(count, data):
    values = st.lists(st.integers(0, 2**64 - 1), min_size=count, max_size=count)
    rounds = data.draw(st.lists(values, min_size=1, max_size=4))
    with ExitStack() as stack:
        members = [stack.enter_context(link) for link in make_links(count)]
        for key, given_values in enumerate(rounds):
            expected = 0
            for value in given_values:
                expected |= value
            got = at_once(
                *(
                    lambda link=link, key=key, value=value: link.all_reduce(key, value)
                    for link, value in zip(members, given_values, strict=True)
                )
            )
            assert got == [expected] * count


def test_exchanges_of_several_threads_do_not_mix(links):
    first, second = links(2)
    calls = [
        lambda link=link, key=key, value=number << 40: link.all_reduce(key, 1 << key | value)
        for key in range(12)
        for number, link in enumerate((first, second))
    ]
    got = at_once(*calls)
    assert got == [1 << key | 1 << 40 for key in range(12) for _ in range(2)]


def test_one_process_needs_nobody_and_keys_can_be_used_again(links):
    alone = kernels.get_all_reduce_interface([], 4711, host_id=0, host_count=1)
    assert [alone.all_reduce(0, value) for value in (3, 4)] == [3, 4]
    assert alone.port is None
    first, second = links(2)
    for value in (1, 2):
        mine = partial(first.all_reduce, 0, value)
        assert at_once(mine, lambda: second.all_reduce(0, 4)) == [value | 4] * 2


def test_processes_may_come_late():
    ports = free_ports(2)
    first = kernels.TcpAllReduce(0, 2, [LOCAL.format(ports[1])], ports[0], timeout=20)
    with first, ThreadPoolExecutor(1) as pool:
        waits = pool.submit(first.all_reduce, 5, 1)
        time.sleep(0.2)
        address = LOCAL.format(ports[0])
        with kernels.get_all_reduce_interface([address], ports[1], 1, 2) as late:
            assert late.all_reduce(5, 6) == 7
            assert waits.result() == 7


def test_a_process_that_never_comes_is_an_error():
    ports = free_ports(2)
    address = LOCAL.format(ports[1])
    message = f"cannot reach {address} within 0.3 s"
    with (
        kernels.TcpAllReduce(0, 2, [address], ports[0], timeout=0.3) as alone,
        pytest.raises(kernels.AllReduceError, match=message),
    ):
        alone.all_reduce(0, 1)


def test_a_process_that_gives_no_value_is_named(links):
    members = links(3)
    assert at_once(*(partial(link.all_reduce, 7, 1) for link in members)) == [1] * 3
    for link in members:
        link.timeout = 2.0
    for error in at_once(*(partial(members[host].all_reduce, 8, 1) for host in (0, 2))):
        assert isinstance(error, kernels.AllReduceError)
        assert "all-reduce 8: host 1 gave no value within 2 s" in str(error)


def test_a_process_that_leaves_is_an_error_at_once(links):
    first, second = links(2, timeout=60.0)
    assert at_once(lambda: first.all_reduce(0, 1), lambda: second.all_reduce(0, 2)) == [3, 3]
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(first.all_reduce, 1, 1)
        second.close()
        with pytest.raises(kernels.AllReduceError, match=r"ended without|cannot send"):
            waits.result(timeout=20)
    with pytest.raises(kernels.AllReduceError):
        first.all_reduce(2, 1)
    with pytest.raises(kernels.AllReduceError, match="this link is closed"):
        second.all_reduce(2, 1)


CHILD = """
import sys, time
import kernels
port, other = int(sys.argv[1]), sys.argv[2]
link = kernels.get_all_reduce_interface([other], port, host_id=1, host_count=2)
print(link.all_reduce(0, 2), flush=True)
time.sleep(60)
"""


def test_a_process_that_is_frozen_or_killed_is_an_error():
    ports = free_ports(2)
    address = LOCAL.format(ports[1])
    command = [sys.executable, "-c", CHILD, str(ports[1]), LOCAL.format(ports[0])]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        try:
            with kernels.TcpAllReduce(0, 2, [address], ports[0], timeout=60) as link:
                assert link.all_reduce(0, 1) == 3
                assert child.stdout is not None
                assert child.stdout.readline() == b"3\n"
                child.send_signal(signal.SIGSTOP)
                link.timeout = 0.3
                with pytest.raises(kernels.AllReduceError, match=r"host 1 gave no value within"):
                    link.all_reduce(1, 1)
                child.kill()
                link.timeout = 60
                with pytest.raises(kernels.AllReduceError, match=r"host 1 ended|cannot send"):
                    link.all_reduce(2, 1)
        finally:
            child.kill()


def talk(port: int, message: bytes) -> bytes:
    """What the other end answers until it hangs up; nothing, for all but our own."""
    with socket.create_connection(("localhost", port), timeout=10) as stranger:
        stranger.sendall(message)
        return stranger.recv(1)


def test_strangers_are_turned_away(links):
    first, second = links(2)
    assert talk(first.port, b"GET / HTTP/1.1\r\n\r\n") == b""
    assert talk(first.port, HELLO.pack(b"emberay0", 1, 2) + VALUE.pack(0, 9)) == b""
    with socket.create_connection(("localhost", first.port)) as silent:
        silent.sendall(MAGIC[:3])
        got = at_once(lambda: first.all_reduce(0, 1), lambda: second.all_reduce(0, 2))
    assert got == [3, 3]


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ((1, 3), "host 1 counts 3 hosts, but host 0 counts 2"),
        ((0, 2), "a second process says it is host 0"),
        ((2, 2), "a second process says it is host 2"),
    ],
)
def test_processes_that_do_not_fit_together_are_told(links, hello, message):
    first, _ = links(2)
    assert talk(first.port, HELLO.pack(MAGIC, *hello)) == b""
    with pytest.raises(kernels.AllReduceError, match=message):
        first.all_reduce(0, 1)


def test_two_of_the_same_number_are_told(links):
    first, _ = links(2)
    hello = HELLO.pack(MAGIC, 1, 2)
    with socket.create_connection(("localhost", first.port)) as one:
        one.sendall(hello + VALUE.pack(0, 4)[:5])
        time.sleep(0.1)
        assert talk(first.port, hello) == b""
    with pytest.raises(kernels.AllReduceError, match="a second process says it is host 1"):
        first.all_reduce(0, 1)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(kernels.SpecError, match="host_id 2 must be 0 to host_count - 1"):
        kernels.get_all_reduce_interface(["a:1"], 1, host_id=2, host_count=2)
    with pytest.raises(kernels.SpecError, match="name 2 hosts, but host_count is 2; give the 1"):
        kernels.get_all_reduce_interface(["a:1", "b:2"], 1, host_id=0, host_count=2)
    for wrong in ("host", "host:", ":12", "host:x", "host:0", "host:65536"):
        with pytest.raises(kernels.SpecError, match="is not host:port"):
            kernels.get_all_reduce_interface([wrong], 1, host_id=0, host_count=2)
    with pytest.raises(kernels.SpecError, match="below 2\\*\\*64"):
        kernels.get_all_reduce_interface([], 1).all_reduce(0, -1)
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(kernels.AllReduceError, match=f"cannot listen on port {port}"):
            kernels.get_all_reduce_interface(["a:1"], port, host_id=0, host_count=2)
    with pytest.raises(kernels.AllReduceError, match="cannot listen on port 70000"):
        kernels.get_all_reduce_interface(["a:1"], 70000, host_id=0, host_count=2)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ipv4:127.0.0.1:{}", "[::1]:{}"])
def test_addresses_have_several_forms(address):
    ports = free_ports(2)
    if "::" in address and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with ExitStack() as stack:
        members = [
            stack.enter_context(
                kernels.TcpAllReduce(host, 2, [address.format(ports[1 - host])], ports[host])
            )
            for host in range(2)
        ]
        got = at_once(*(lambda link=link: link.all_reduce(0, 1) for link in members))
    assert got == [1, 1]


def serving_threads() -> int:
    """Threads of links that are not closed yet."""
    return sum(thread.name.startswith("all-reduce of") for thread in threading.enumerate())


def wait_for_no_thread() -> None:
    """Wait until the threads of closed links have ended."""
    deadline = time.monotonic() + 20
    while serving_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert serving_threads() == 0


def test_links_end_with_those_who_hold_them():
    gc.collect()
    wait_for_no_thread()
    members = make_links(2)
    at_once(*(partial(link.all_reduce, 0, 1) for link in members))
    assert serving_threads() == 2
    members.clear()
    gc.collect()
    wait_for_no_thread()
