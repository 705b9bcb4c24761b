"""What Ray says when something goes wrong, and the end of processes; without a cluster."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from ray import exceptions

from orchestrator.hosts.processes import _end_processes
from orchestrator.hosts.ray_hosts import _host_error, _short


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ObjectLostError("00ff", None, "call site"),
        exceptions.OwnerDiedError("00ff", None, "call site"),
        exceptions.WorkerCrashedError(),
        exceptions.OutOfMemoryError("the node is out of memory"),
        exceptions.ActorUnavailableError("the actor is unavailable", b"0" * 16),
        exceptions.GetTimeoutError("too late"),
    ],
)
def test_trouble_of_the_cluster_may_pass(error):
    described = _host_error(error)
    assert described.transient
    assert described.type_name == type(error).__name__


def test_an_exception_out_of_the_actors_code_comes_again():
    try:
        raise TypeError("cannot pickle this")
    except TypeError as cause:
        error = exceptions.RayTaskError("execute", "traceback\nTypeError: cannot pickle", cause)
    for raised in (error, error.as_instanceof_cause()):
        described = _host_error(raised)
        assert not described.transient
        assert "TypeError: cannot pickle" in described.message


def test_the_end_of_a_long_text_is_kept_without_colours():
    lines = "\n".join(f'  File "module.py", line {number}, in call' for number in range(40))
    text = f"The actor died in its creation task, \x1b[36mray::Host\x1b[39m\n{lines}\nOSError: full"
    short = _short(ValueError(text))
    assert short.startswith("… ")
    assert short.endswith("in call OSError: full")
    assert len(short) == 402
    assert _short(ValueError("\x1b[36mred\x1b[39m   hot")) == "red hot"


def test_processes_are_gone_when_their_end_is_reported():
    code = "import time; print('ready', flush=True); time.sleep(60)"
    ones = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)
    ]
    for one in ones:
        assert one.stdout is not None
        assert one.stdout.readline() == b"ready\n"
    os.kill(ones[0].pid, signal.SIGSTOP)
    _end_processes([one.pid for one in ones])
    assert [one.wait(timeout=0.5) for one in ones] == [-signal.SIGKILL] * 2
    _end_processes([one.pid for one in ones])


def test_the_wait_for_the_end_of_processes_lasts_as_long_as_they_do(monkeypatch):
    left = {17}
    monkeypatch.setattr("orchestrator.hosts.processes.kill_processes", lambda pids: None)
    monkeypatch.setattr("orchestrator.hosts.processes._exists", left.__contains__)
    began = time.monotonic()
    threading.Timer(0.2, left.clear).start()
    _end_processes([17])
    assert 0.15 < time.monotonic() - began < 5.0
    left.add(17)
    monkeypatch.setattr("orchestrator.hosts.processes.KILL_SECONDS", 0.1)
    began = time.monotonic()
    _end_processes([17])
    assert time.monotonic() - began < 5.0
