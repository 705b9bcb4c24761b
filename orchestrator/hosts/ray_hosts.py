"""Hosts as Ray actors: one process each, with a thread for commands and one for pulses."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.config import ClusterConfig
from orchestrator.errors import HostError
from orchestrator.hosts.host_actor import Outcome, log_file
from orchestrator.hosts.interface import (
    Answered,
    Died,
    Held,
    Observation,
    PulseSeen,
    Raised,
    StacksSeen,
)
from orchestrator.hosts.outside_stacks import outside_stacks, outside_stacks_on
from orchestrator.hosts.processes import (
    KILL_SECONDS,
    START_SECONDS,
    end_on,
    kill_processes,
    wait_until_gone,
)
from orchestrator.hosts.ray_actor import actor_class, host_environment
from orchestrator.machines import node_dealt, resources_of_host
from orchestrator.slices import Place
from workers.prediction_protocol import HostCommand
from workers.protocol import Assignment, Hello, RunLease, RunSpec

__all__ = ["RayHosts", "host_environment"]

FULL_SPEED = 2
"""The lease of a launch with which spare processes are started. All wait for the first one, which
compiles, and on few cores the imports of the spares would hold it up."""
_LAST_LINES = 3
_LONGEST_TEXT = 400
"""Characters of Ray's words that are kept."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

type _Asked = Literal["command", "pulse", "stacks", "hold", "release"]


@dataclass
class _Member:
    """One host process of the present launch."""

    assignment: Assignment
    actor: Any
    pid: int | None = None
    node: str | None = None
    dead: bool = False
    pulse_due: float = 0.0
    pulse_asked: bool = False


@dataclass(frozen=True)
class _Spare:
    """A process that has imported everything, and waits to be made a host."""

    actor: Any
    warmed: Any
    """Ready when the imports are done."""


class RayHosts:
    """A ``HostGroup`` on Ray.

    Args:
        run: What every host is told.
        cluster: Resources of each host.
        pulse_interval: Seconds between pulses.
        factory: ``module:callable`` that makes a host of a run, an assignment and an address.
        place: Where a host is to be started; None leaves it to Ray.
    """

    def __init__(
        self,
        run: RunSpec,
        cluster: ClusterConfig,
        *,
        pulse_interval: float = 1.0,
        factory: str = "workers.host:Host",
        place: Callable[[Assignment], Place] | None = None,
    ) -> None:
        self._run = run
        self._cluster = cluster
        self._pulse_interval = pulse_interval
        self._factory = factory
        self._place = place
        self._members: dict[int, _Member] = {}
        self._pending: dict[Any, tuple[int, _Asked]] = {}
        self._last_assignments: dict[int, Assignment] = {}
        self._spares: list[_Spare] = []
        self._nodes: list[dict[str, Any]] = []
        self._leases = 0
        self._here = ray.get_runtime_context().get_node_id()
        self._looker = ThreadPoolExecutor(4, thread_name_prefix="outside-stacks")
        self._looking: dict[Future[str], int] = {}

    # The interface.

    def launch(self, assignments: Sequence[Assignment]) -> None:
        """See ``HostGroup.launch``."""
        actor_class = self._make_actor_class()
        self._leases = 0
        for assignment in assignments:
            actor = self._take_spare() or self._start(actor_class, assignment)
            member = _Member(assignment, actor)
            self._members[assignment.rank] = member
            self._last_assignments[assignment.rank] = assignment
            self._pending[actor.start.remote(assignment)] = (assignment.rank, "command")

    def send(self, command: HostCommand) -> None:
        """See ``HostGroup.send``."""
        shared = ray.put(command)
        for rank, member in self._members.items():
            if not member.dead:
                self._pending[member.actor.execute.remote(shared)] = (rank, "command")
        if isinstance(command, RunLease):
            self._leases += 1
            if self._leases >= FULL_SPEED:
                self._fill_spares()

    def poll(self, timeout: float) -> list[Observation]:
        """See ``HostGroup.poll``."""
        self._ask_for_pulses()
        pending = list(self._pending)
        if not pending:
            time.sleep(timeout)
            return []
        ready, _ = ray.wait(pending, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
        looked = [future for future in self._looking if future.done()]
        seen: list[Observation] = [StacksSeen(self._looking.pop(f), f.result()) for f in looked]
        for reference in ready:
            rank, asked = self._pending.pop(reference)
            observation = self._read(reference, self._members[rank], asked)
            if observation is not None:
                seen.append(observation)
        return seen

    def hold(self, lease: int) -> None:
        """See ``HostGroup.hold``."""
        for rank, member in self._members.items():
            if not member.dead:
                self._pending[member.actor.hold.remote(lease)] = (rank, "hold")

    def release(self, lease: int, last: int) -> None:
        """See ``HostGroup.release``."""
        for rank, member in self._members.items():
            if not member.dead:
                self._pending[member.actor.release.remote(lease, last)] = (rank, "release")

    def room(self) -> int:
        """See ``HostGroup.room``.

        Where hosts need no resources, as many as there are already. Resources are added up over the
        nodes, so there may be less room than it seems; hosts that then do not start are given up.
        """
        needs = resources_of_host(self._cluster, self._run.devices_per_host)
        if not needs:
            return len(self._members)
        free = ray.available_resources()
        return int(min(free.get(name, 0.0) / amount for name, amount in needs.items()))

    def awaits_room(self) -> bool:
        """See ``HostGroup.awaits_room``: each is started for itself, whatever room there is."""
        return False

    def dump_stacks(self, rank: int) -> None:
        """See ``HostGroup.dump_stacks``. A host that is silent is looked into from outside."""
        member = self._members.get(rank)
        if member is None or member.dead:
            return
        late = member.pulse_asked and time.monotonic() > member.pulse_due + self._pulse_interval
        if not late or member.pid is None or member.node is None:
            self._pending[member.actor.dump_stacks.remote()] = (rank, "stacks")
        elif member.node == self._here:
            self._looking[self._looker.submit(outside_stacks, member.pid)] = rank
        else:
            self._pending[outside_stacks_on(member.node, member.pid)] = (rank, "stacks")

    def last_words(self, rank: int) -> str:
        """See ``HostGroup.last_words``."""
        assignment = self._last_assignments.get(rank)
        if assignment is None:
            return ""
        path = log_file(Path(self._run.run_folder), assignment)
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 4096))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return " | ".join([line.strip() for line in lines if line.strip()][-_LAST_LINES:])[-600:]

    def kill_all(self) -> None:
        """See ``HostGroup.kill_all``.

        A process is killed by its id on its own node, as ``ray.kill`` leaves one that is stopped;
        it is told to Ray as well, which knows processes whose ids are not known yet.
        """
        members, self._members, self._pending = list(self._members.values()), {}, {}
        self._looking = {}
        by_node: dict[str, list[int]] = {}
        for member in members:
            if member.pid is not None and member.node is not None and not member.dead:
                by_node.setdefault(member.node, []).append(member.pid)
        here = by_node.pop(self._here, [])
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]} if by_node else set()
        elsewhere = [end_on(node, pids) for node, pids in by_node.items() if node in alive]
        kill_processes(here)
        for member in members:
            ray.kill(member.actor, no_restart=True)
        wait_until_gone(here)
        if elsewhere:
            seconds = START_SECONDS + KILL_SECONDS
            ray.wait(elsewhere, num_returns=len(elsewhere), timeout=seconds)

    def close(self) -> None:
        """See ``HostGroup.close``."""
        self.kill_all()
        for spare in self._spares:
            ray.kill(spare.actor, no_restart=True)
        self._spares = []
        self._looker.shutdown(wait=False, cancel_futures=True)

    # How it is done.

    def _fill_spares(self) -> None:
        """Start what is missing of the spare processes; not before there is work for the hosts."""
        while len(self._spares) < self._cluster.spares:
            actor_class = self._dealt_out(
                self._make_actor_class(), len(self._spares), self._cluster.spares
            )
            actor = actor_class.remote(self._factory, self._run, None)
            self._spares.append(_Spare(actor, actor.warm.remote()))

    def _take_spare(self) -> Any:
        """A spare process, one that is ready if there is one; None if there is none that lives."""
        warmed, _ = ray.wait([s.warmed for s in self._spares] or [ray.put(None)], timeout=0)
        for spare in sorted(self._spares, key=lambda spare: spare.warmed not in warmed):
            self._spares.remove(spare)
            try:
                if spare.warmed in warmed:
                    ray.get(spare.warmed)
            except RayError:
                continue
            return spare.actor
        return None

    def _start(self, actor_class: Any, assignment: Assignment) -> Any:
        if self._place is None:
            actor_class = self._dealt_out(actor_class, assignment.rank, assignment.hosts)
            return actor_class.remote(self._factory, self._run, assignment)
        place = self._place(assignment)
        actor_class = actor_class.options(**place.options)
        return actor_class.remote(self._factory, self._run, assignment, place.environment)

    def _make_actor_class(self) -> Any:
        resources = resources_of_host(self._cluster, self._run.devices_per_host)
        options: dict[str, Any] = {
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop("GPU", 0),
            "resources": resources,
            "concurrency_groups": {"pulse": 1, "stacks": 1},
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        self._nodes = ray.nodes()
        if sum(node["Alive"] for node in self._nodes) > 1:
            options["scheduling_strategy"] = "SPREAD"
        return actor_class(options)

    def _dealt_out(self, actor_class: Any, number: int, processes: int) -> Any:
        """The actor class for one of so many processes, which take no resources.

        Ray spreads those that take some. Those that take none it puts anywhere, whatever else is
        asked, but for a node that it must be.
        """
        node = node_dealt(self._nodes, number, processes)
        if node is None or resources_of_host(self._cluster, self._run.devices_per_host):
            return actor_class
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        return actor_class.options(scheduling_strategy=strategy)

    def _ask_for_pulses(self) -> None:
        now = time.monotonic()
        for rank, member in self._members.items():
            if not member.dead and not member.pulse_asked and now >= member.pulse_due:
                member.pulse_asked = True
                member.pulse_due = now + self._pulse_interval
                self._pending[member.actor.pulse.remote()] = (rank, "pulse")

    def _read(self, reference: Any, member: _Member, asked: _Asked) -> Observation | None:
        """Make an observation of a result that is ready; None if it says nothing new."""
        rank = member.assignment.rank
        if asked == "pulse":
            member.pulse_asked = False
        try:
            value = ray.get(reference)
        except RayError as error:
            gone = isinstance(error, RayActorError) and not isinstance(error, ActorUnavailableError)
            if gone and not member.dead:
                member.dead = True
                return Died(rank, _short(error))
            # An answer that was lost will not come again, even if the host is alive.
            lost = asked == "command" and not gone
            return Raised(rank, _host_error(error)) if lost else None
        match value:
            case (pulse, node):
                member.pid, member.node = pulse.pid, node
                return PulseSeen(rank, pulse)
            case str():
                return StacksSeen(rank, value)
            case Held():
                return value
            case None if asked in ("pulse", "release"):
                return None
            case Outcome(reply=reply, error=None) if reply is not None:
                if isinstance(reply, Hello):
                    member.pid, member.node = reply.pid, reply.node
                return Answered(rank, reply)
            case Outcome(error=error, traceback=traceback) if error is not None:
                return Raised(rank, error, traceback)
        return Raised(rank, HostError("TypeError", f"answered with {value!r}", transient=False))


def _host_error(error: RayError) -> HostError:
    """What Ray says instead of an answer.

    An exception out of the actor's code would only come again. All else is the cluster's trouble
    (an object or its owner is lost, a worker crashed, memory ran out) and may pass.
    """
    transient = not isinstance(error, RayTaskError)
    return HostError(type(error).__name__, _short(error), transient)


def _short(error: Exception) -> str:
    """Ray's many lines about what went wrong, in a few words.

    The end is kept of a text that is too long: of a traceback it is the cause.
    """
    text = " ".join(_COLOUR.sub("", str(error)).split())
    if "connection error code" in text:
        return "its process ended without a word (killed, out of memory, or crashed)"
    for mark in ("Worker exit detail: ", "The actor is dead because "):
        text = text.partition(mark)[2] or text
    text = text.partition(". Some common causes")[0]
    return text if len(text) <= _LONGEST_TEXT else f"… {text[-_LONGEST_TEXT:]}"
