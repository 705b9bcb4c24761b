"""What runs in the process of a host: a ``Host``, and around it what crosses process boundaries.

Nothing here imports Ray or JAX; the process's environment is set before this file is imported.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import psutil

from kernels.errors import EmberayError
from orchestrator.errors import HostError
from workers.prediction_protocol import HostCommand, HostReply
from workers.protocol import Assignment, Hello, Pulse, RunSpec
from workers.redaction import RedactedStream, Redactor
from workers.stacks import stacks_of_threads

__all__ = ["HostActor", "HostLike", "Outcome", "log_file"]


class HostLike(Protocol):
    """What a factory returns: ``workers.host.Host``, or something that stands in for it."""

    def hello(self) -> Hello:
        """Who the host is."""
        ...

    def execute(self, command: HostCommand) -> HostReply:
        """Do what is told, and return when it is done."""
        ...

    def pulse(self) -> Pulse:
        """The state at this moment; on any thread."""
        ...

    def dump_stacks(self) -> str:
        """The stacks of all threads; on any thread."""
        ...

    def hold(self, lease: int) -> int:
        """See ``workers.brake.Brake``; on any thread."""
        ...

    def release(self, lease: int, last: int) -> None:
        """See ``workers.brake.Brake``; on any thread."""
        ...

    def notice_leaving(self) -> None:
        """The machine will end this process soon; on any thread."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a command ended: one of ``reply`` and ``error`` is set."""

    reply: HostReply | None = None
    error: Exception | None = None
    traceback: str = ""


class HostActor:
    """Carries one host; its methods are called on threads of their own.

    The host itself is made in ``start``, which may take long (it imports JAX), so that pulses are
    answered from the beginning.

    Args:
        factory: ``module:callable``, called with the run, the assignment and ``address``.
        run: What every host is told.
        assignment: This host's place.
        address: IP address of this node, where other hosts reach this one.
    """

    def __init__(self, factory: str, run: RunSpec, assignment: Assignment, address: str) -> None:
        self._factory = factory
        self._run = run
        self._assignment = assignment
        self._address = address
        self._host: HostLike | None = None
        self._leaving = False
        self._started = time.monotonic()
        hide = Redactor.of({"data": run.data, "parameters": run.parameters}, os.environ)
        _redirect_output(log_file(Path(run.run_folder), assignment), hide)

    def start(self) -> Outcome:
        """Make the host; the reply is its ``Hello``."""

        def make() -> Hello:
            module, _, name = self._factory.partition(":")
            make_host = getattr(import_module(module), name)
            host: HostLike = make_host(self._run, self._assignment, address=self._address)
            self._host = host
            if self._leaving:
                host.notice_leaving()
            return host.hello()

        return _outcome(make)

    def execute(self, command: HostCommand) -> Outcome:
        """Let the host do what is told."""
        host = self._host
        if host is None:
            return Outcome(error=HostError("RuntimeError", "the host has not started", False))
        return _outcome(lambda: host.execute(command))

    def pulse(self) -> Pulse:
        """The host's pulse; before there is a host, that of its process."""
        if self._host is not None:
            return self._host.pulse()
        return Pulse(
            rank=self._assignment.rank,
            pid=os.getpid(),
            phase="starting",
            phase_seconds=time.monotonic() - self._started,
            step=0,
            memory_bytes=psutil.Process().memory_info().rss,
            leaving=self._leaving,
        )

    def hold(self, lease: int) -> int:
        """Let the host begin no further step of a lease; steps that it has begun."""
        return 0 if self._host is None else self._host.hold(lease)

    def release(self, lease: int, last: int) -> None:
        """Let the host run up to a step, and end the lease there."""
        if self._host is not None:
            self._host.release(lease, last)

    def notice_leaving(self) -> None:
        """The machine will end this process soon: the pulse says so."""
        self._leaving = True
        if self._host is not None:
            self._host.notice_leaving()

    def dump_stacks(self) -> str:
        """The stacks of all threads."""
        if self._host is not None:
            return self._host.dump_stacks()
        return stacks_of_threads()


def log_file(run_folder: Path, assignment: Assignment) -> Path:
    """Where a host's output goes."""
    return run_folder / "logs" / f"launch-{assignment.launch}-host-{assignment.rank}.log"


def _outcome(act: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(reply=act())
    except Exception as error:
        text = traceback.format_exc()
        print(text, file=sys.stderr, flush=True)
        return Outcome(error=_portable(error), traceback=text)


def _portable(error: Exception) -> Exception:
    """The error itself if the driver can read it for certain, else its description."""
    if isinstance(error, EmberayError):
        try:
            if str(pickle.loads(pickle.dumps(error))) == str(error):
                return error
        except Exception as unreadable:
            print(f"{type(error).__name__} does not pickle: {unreadable}", file=sys.stderr)
    return HostError.of(error)


def _redirect_output(path: Path, hide: Redactor) -> None:
    """Send all that this process writes to its output, native code included, to a file.

    What Python writes is freed of secrets.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    # Python's own streams may have been replaced by ones that write elsewhere.
    sys.stdout = RedactedStream(os.fdopen(1, "w", buffering=1, closefd=False), hide)
    sys.stderr = RedactedStream(os.fdopen(2, "w", buffering=1, closefd=False), hide)
