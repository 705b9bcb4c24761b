"""The Ray actor of a host's process: a ``HostActor``, or a spare that may become one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import ray

from orchestrator.hosts.host_actor import HostActor, Outcome
from orchestrator.hosts.interface import Held
from orchestrator.slices import set_environment
from workers.prediction_protocol import HostCommand
from workers.protocol import Assignment, Hello, Pulse, RunSpec

__all__ = ["actor_class", "host_environment"]

_JAX_PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}


def host_environment(run: RunSpec) -> dict[str, str]:
    """Environment variables that a host's process must have before it imports JAX."""
    environment = {"JAX_PLATFORMS": _JAX_PLATFORMS[run.platform]}
    if run.platform == "cpu":
        environment["JAX_NUM_CPU_DEVICES"] = str(run.devices_per_host)
        environment["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    return environment


def actor_class(options: dict[str, Any]) -> Any:
    """The actor class: pulses and stacks are answered on threads of their own."""

    class RayHost:
        def __init__(
            self,
            factory: str,
            run: RunSpec,
            assignment: Assignment | None,
            environment: Mapping[str, str] | None = None,
        ) -> None:
            # Not through Ray's runtime_env: for that, Ray starts each process anew and slowly.
            if "jax" in sys.modules:
                raise RuntimeError("JAX is loaded before its settings are made")
            set_environment({**host_environment(run), **(environment or {})})
            self._factory, self._run = factory, run
            self._actor: HostActor | None = None
            self._node = ray.get_runtime_context().get_node_id()
            self._leaving = False
            # A machine that is about to be taken away says so in this way.
            signal.signal(signal.SIGTERM, lambda number, frame: self._notice_leaving())
            if assignment is not None:
                self._assign(assignment)

        def _assign(self, assignment: Assignment) -> HostActor:
            address = ray.util.get_node_ip_address()
            actor = self._actor = HostActor(self._factory, self._run, assignment, address)
            self._rank = assignment.rank
            if self._leaving:
                actor.notice_leaving()
            return actor

        def _notice_leaving(self) -> None:
            self._leaving = True
            if self._actor is not None:
                self._actor.notice_leaving()

        def warm(self) -> None:
            import_module(self._factory.partition(":")[0])
            import_module("workers.warm").warm_up(self._run)

        def start(self, assignment: Assignment) -> Outcome:
            outcome = (self._actor or self._assign(assignment)).start()
            if isinstance(outcome.reply, Hello):
                outcome = replace(outcome, reply=replace(outcome.reply, node=self._node))
            return outcome

        def execute(self, command: HostCommand) -> Outcome:
            return _present(self._actor).execute(command)

        @ray.method(concurrency_group="pulse")
        def pulse(self) -> tuple[Pulse, str] | None:
            return None if self._actor is None else (self._actor.pulse(), self._node)

        @ray.method(concurrency_group="pulse")
        def hold(self, lease: int) -> Held:
            return Held(self._rank, lease, _present(self._actor).hold(lease))

        @ray.method(concurrency_group="pulse")
        def release(self, lease: int, last: int) -> None:
            _present(self._actor).release(lease, last)

        @ray.method(concurrency_group="stacks")
        def dump_stacks(self) -> str:
            return _present(self._actor).dump_stacks()

    return ray.remote(**options)(RayHost)


def _present(actor: HostActor | None) -> HostActor:
    if actor is None:
        raise RuntimeError("a spare process was told something before it was made a host")
    return actor
