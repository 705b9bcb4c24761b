"""What every host is, whatever it does: a process with a name, a pulse, and a place in the mesh."""

from __future__ import annotations

import os
import socket

import jax
import psutil
from jax.sharding import Mesh

from workers.compilation import use_compilation_cache
from workers.compiled_steps import CompiledSteps
from workers.mesh import free_address, join_mesh
from workers.phases import Phases
from workers.protocol import Assignment, Hello, Joined, Pulse, RunSpec
from workers.stacks import stacks_of_threads

__all__ = ["CommandedHost", "present"]


class CommandedHost:
    """One machine's part of a run; subclasses carry out its commands.

    What is public here may be called on any thread, at any time.

    Args:
        run: What every host is told.
        assignment: This host's place in this launch.
        address: Name or IP under which the other hosts reach this one.
    """

    def __init__(self, run: RunSpec, assignment: Assignment, address: str) -> None:
        self._assignment, self._address = assignment, address
        self._phases = Phases()
        self._step = 0
        self._mesh: Mesh | None = None
        self._leaving = False
        use_compilation_cache()
        self._steps = CompiledSteps.of(run.session, assignment, self._phases)

    def hello(self) -> Hello:
        """Who this host is."""
        address = free_address(self._address)
        return Hello(self._assignment.rank, os.getpid(), socket.gethostname(), address)

    def pulse(self) -> Pulse:
        """What this host is doing now."""
        phase, seconds = self._phases.current()
        return Pulse(
            rank=self._assignment.rank,
            pid=os.getpid(),
            phase=phase,
            phase_seconds=seconds,
            step=self._step,
            memory_bytes=psutil.Process().memory_info().rss,
            leaving=self._leaving,
        )

    def notice_leaving(self) -> None:
        """The machine will end this process soon: the pulse says so from now on."""
        self._leaving = True

    def dump_stacks(self) -> str:
        """The Python stack of every thread, as text."""
        return stacks_of_threads()

    def _join(self, coordinator: str, run: RunSpec) -> Joined:
        rank, hosts = self._assignment.rank, self._assignment.hosts
        self._mesh = join_mesh(coordinator, rank, hosts, run)
        return Joined(rank, jax.local_device_count(), self._mesh.size)


def present[T](value: T | None, command: str) -> T:
    """A value that a command has made.

    Raises:
        RuntimeError: The command has not been sent yet.
    """
    if value is None:
        raise RuntimeError(f"the host has not been sent {command} yet")
    return value
