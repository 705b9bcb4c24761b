"""Hosts that exist only as numbers, on a clock that jumps from event to event.

They keep to the same protocol as real ones, and are strict: two commands at once, a lease that does
not begin where the host is, or one of another plan than was prepared, are refused with an error.
So a test of the controller finds its mistakes, with a thousand hosts and any faults, in
milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from kernels.errors import LimitsExceeded, Overflow
from orchestrator.errors import HostError
from orchestrator.hosts.faults import Fault, FaultSource, NoFaults, RandomDelays
from orchestrator.hosts.interface import (
    Answered,
    Died,
    Held,
    Observation,
    PulseSeen,
    Raised,
    StacksSeen,
)
from orchestrator.hosts.simulated_lease import (
    altered,
    evaluation_replies,
    lease_replies,
    nothing,
)
from orchestrator.hosts.simulated_timeline import NEVER, Health, Timeline
from orchestrator.hosts.simulated_world import (
    COLLECTIVE,
    STACK,
    FakeClock,
    SimulatedPlan,
    Times,
    World,
)
from workers import protocol
from workers.errors import NonFiniteLoss
from workers.prediction_protocol import HostCommand
from workers.protocol import Assignment, Command, Observed, Reply

__all__ = ["SimulatedHosts"]


class SimulatedHosts:
    """A ``HostGroup`` without processes.

    Args:
        clock: Advanced by ``poll`` alone.
        world: What outlives a launch.
        devices_per_host: Devices that each host reports.
        faults: What goes wrong.
        times: How long things take.
        delays: What takes longer; nothing by default.
    """

    def __init__(
        self,
        clock: FakeClock,
        world: World,
        *,
        devices_per_host: int = 1,
        faults: FaultSource | None = None,
        times: Times | None = None,
        delays: RandomDelays | None = None,
    ) -> None:
        self._clock = clock
        self._world = world
        self._devices = devices_per_host
        self._faults = faults or NoFaults()
        self._times = times or Times()
        self._delays = delays or RandomDelays(0, chance=0.0, longest=0.0)
        self._forget()

    def _forget(self) -> None:
        self._hosts, self._launch = 0, -1
        self._timeline = Timeline()
        self._health = Health(0, 0.0, 0)
        self._next_pulse = NEVER
        self._unanswered = 0
        self._phase, self._phase_since, self._lease = "starting", 0.0, None
        self._step: int | None = None
        self._plan: SimulatedPlan | None = None
        self._leaving: set[int] = set()
        self._struck, self._outcome, self._last_outcome = False, -1, -1
        self._compiled = False
        self._pending: list[tuple[float, int]] = []

    # The interface.

    def launch(self, assignments: Sequence[Assignment]) -> None:
        """See ``HostGroup.launch``."""
        if self._hosts:
            raise RuntimeError("launched while hosts of an earlier launch are left")
        self._forget()
        now, hosts = self._clock.now, len(assignments)
        self._hosts, self._launch = hosts, assignments[0].launch
        self._health = Health(hosts, now + self._times.start, self._world.capacity)
        self._next_pulse = now + self._times.pulse
        self._phase_since = now
        self._unanswered = hosts
        self._carry_out(
            None,
            self._times.start,
            lambda rank: protocol.Hello(rank, 1000 + rank, f"node-{rank}", f"10.0.0.{rank}:1"),
        )

    def send(self, command: HostCommand) -> None:
        """See ``HostGroup.send``."""
        if self._unanswered:
            raise RuntimeError(f"{type(command).__name__} sent before all hosts have answered")
        self._unanswered = self._hosts
        self._phase_since, self._lease = self._clock.now, None
        times = self._times
        match command:
            case protocol.Join():
                self._phase = "joining"
                devices = self._devices
                joined = (devices, devices * self._hosts)
                self._carry_out(command, times.join, lambda rank: protocol.Joined(rank, *joined))
            case protocol.Survey():
                self._phase = "surveying"
                observed = {STACK: Observed(1, 1, 1)}
                steps = self._world.steps_per_epoch
                rows = steps * self._world.batch_size
                self._carry_out(
                    command,
                    times.survey,
                    lambda rank: protocol.Surveyed(rank, rows, steps, observed),
                )
            case protocol.Prepare(plan=text):
                self._phase = "preparing"
                plan = self._plan = SimulatedPlan(**json.loads(text))
                data = self._world.data
                self._carry_out(
                    command, times.prepare, lambda rank: protocol.Prepared(rank, plan.hash, data)
                )
            case protocol.Restore(step=step):
                self._phase = "restoring"
                if step is not None and step not in self.committed():
                    raise RuntimeError(f"told to restore step {step}, which is not committed")
                restored = self._step = step or 0
                self._carry_out(
                    command, times.restore, lambda rank: protocol.Restored(rank, restored)
                )
            case protocol.RunLease(lease=lease):
                self._run_lease(command, lease)
            case protocol.Evaluate():
                self._phase = "evaluating"
                self._world.evaluated.append(self._step or 0)
                self._carry_out(command, times.evaluate, evaluation_replies(command))
            case protocol.Finish():
                self._phase = "finishing"
                last = max((at for at, _ in self._pending), default=0.0) - self._clock.now
                self._carry_out(
                    command,
                    max(times.finish, last),
                    lambda rank: protocol.Finished(rank, self.committed()),
                )

    def poll(self, timeout: float) -> list[Observation]:
        """See ``HostGroup.poll``; the clock goes to the next event, or by ``timeout``."""
        due = min(self._timeline.due, self._next_pulse)
        self._clock.now = max(self._clock.now, min(due, self._clock.now + timeout))
        now = self._clock.now
        seen = self._timeline.until(now)
        if now >= self._next_pulse:
            self._next_pulse = now + self._times.pulse
            seen += [PulseSeen(rank, self._pulse(rank)) for rank in self._health.beating(now)]
        return seen

    def hold(self, lease: int) -> None:
        """See ``HostGroup.hold``; all hold before the step after the next, but no evaluation."""
        if self._phase == "evaluating":
            return
        if self._lease is None or self._lease.number != lease:
            raise RuntimeError(f"told to hold in lease {lease}, but {self._lease} is run")
        for rank in range(self._hosts):
            if self._alive(rank) and self._health.stalls_at(rank) == NEVER:
                begun = min(self._lease.last, self._pulse(rank).step + 1)
                self._timeline.see(self._clock.now + 0.05, Held(rank, lease, begun))

    def release(self, lease: int, last: int) -> None:
        """See ``HostGroup.release``."""
        running = self._lease
        if running is None or running.number != lease or not running.first <= last <= running.last:
            raise RuntimeError(f"told to end lease {lease} at step {last}, but {running} is run")
        if last < running.last and not self._struck and self._timeline.drop(self._outcome):
            self._timeline.drop(self._last_outcome)
            self._lease = replace(running, last=last, save=False)
            reply, done = self._end_of(self._lease, compiling=0.0)
            self._answer(self._times.step, reply, done)

    def room(self) -> int:
        """See ``HostGroup.room``."""
        return max(0, self._world.capacity - self._hosts)

    def awaits_room(self) -> bool:
        """See ``HostGroup.awaits_room``."""
        return False

    def dump_stacks(self, rank: int) -> None:
        """See ``HostGroup.dump_stacks``; frozen hosts stay silent."""
        if self._alive(rank):
            stacks = StacksSeen(rank, f"stacks of host {rank}")
            self._timeline.see(self._clock.now + 0.1, stacks)

    def last_words(self, rank: int) -> str:
        """See ``HostGroup.last_words``."""
        return f"log of host {rank}"

    def kill_all(self) -> None:
        """See ``HostGroup.kill_all``; checkpoints that are not committed by now never will be."""
        self.committed()
        self._forget()

    def close(self) -> None:
        """See ``HostGroup.close``."""
        self.kill_all()

    @property
    def left(self) -> int:
        """Hosts of the present launch, dead ones too."""
        return self._hosts

    def tell_to_leave(self, rank: int) -> None:
        """A host's pulse says from now on that its machine will end it."""
        self._leaving.add(rank)

    def report(self, time: float, observation: Observation) -> None:
        """Something is seen of a host at this time, whatever it does."""
        self._timeline.see(time, observation)

    @property
    def at_step(self) -> int:
        """Steps that host 0 has begun; 0 before a launch."""
        return self._pulse(0).step if self._hosts else 0

    def committed(self) -> tuple[int, ...]:
        """Steps of the committed checkpoints, ascending."""
        due = sorted(step for at, step in self._pending if at <= self._clock.now)
        self._pending = [(at, step) for at, step in self._pending if at > self._clock.now]
        self._world.committed = sorted({*self._world.committed, *due})[-3:]
        return tuple(self._world.committed)

    def set_aside(self, step: int) -> None:
        """Forget a committed checkpoint."""
        self._world.committed.remove(step)

    # How a command is carried out.

    def _run_lease(self, command: protocol.RunLease, lease: protocol.Lease) -> None:
        world, times = self._world, self._times
        if lease.first != self._step:
            raise RuntimeError(f"lease from step {lease.first}, but the hosts are at {self._step}")
        if self._plan is None or lease.plan_hash != self._plan.hash:
            raise RuntimeError(f"lease of plan {lease.plan_hash}, but prepared is {self._plan}")
        self._phase, self._lease = "training", lease
        steps = range(lease.first, lease.last)
        world.leases.append((self._launch, lease.first, lease.last))
        compiling = 0.0 if self._compiled or not steps else times.compile
        duration = compiling + len(steps) * times.step
        if (too_much := world.first_over(steps, self._plan.limit)) is not None:
            overflow = Overflow(
                STACK, "max_ids_per_partition", self._plan.limit, world.needs[too_much]
            )
            error = LimitsExceeded([overflow])
            self._timeline.see(self._clock.now + duration, Raised(self._hosts - 1, error))
            return
        if (bad := world.first_bad(lease)) is not None:
            wrong = NonFiniteLoss(f"step {bad}: the loss is nan", bad)
            for rank in range(self._hosts):
                self._timeline.see(self._clock.now + duration, Raised(rank, wrong))
            return
        reply, done = self._end_of(lease, compiling)
        self._carry_out(command, duration, reply, done)

    def _end_of(
        self, lease: protocol.Lease, compiling: float
    ) -> tuple[Callable[[int], Reply], Callable[[], None]]:
        """What hosts answer at a lease's end, and what has happened by then."""
        limit = self._plan.limit if self._plan else 1
        reply = lease_replies(self._world, lease, self._hosts, compiling, self._times, limit)

        def done() -> None:
            self._step, self._compiled = lease.last, True
            if lease.save:
                self._pending.append((self._clock.now + self._times.commit, lease.last))

        return reply, done

    def _carry_out(
        self,
        command: Command | None,
        duration: float,
        reply: Callable[[int], Reply],
        done: Callable[[], None] = nothing,
    ) -> None:
        """Queue every host's answer, or what comes of a fault."""
        duration += self._delays.longer()
        if command is not None and not self._health.all_alive(self._clock.now):
            return
        fault = self._faults.strike(command, self._launch, self._hosts)
        struck = fault is not None and fault.kind not in ("mismatch", "other_data")
        together = isinstance(command, COLLECTIVE)
        if fault is not None and struck:
            self._suffer(fault, command, duration, together)
            done = nothing
        self._struck = struck
        self._answer(
            duration,
            reply,
            done,
            fault,
            lambda rank: struck and (together or fault is None or rank == fault.rank),
        )

    def _answer(
        self,
        duration: float,
        reply: Callable[[int], Reply],
        done: Callable[[], None],
        fault: Fault | None = None,
        silent: Callable[[int], bool] = lambda rank: False,
    ) -> None:
        """Queue the end of a command."""

        def answers(asked: Iterable[int]) -> list[Observation]:
            starts = self._health.starts
            ranks = [rank for rank in asked if starts[rank] != NEVER and not silent(rank)]
            self._unanswered -= len(ranks)
            return [Answered(rank, altered(reply(rank), fault)) for rank in ranks]

        def end() -> list[Observation]:
            done()
            return answers(rank for rank in range(self._hosts) if rank != late)

        at = self._clock.now + duration
        late, by = self._delays.straggler(self._hosts) or (None, 0.0)
        self._outcome = self._timeline.put(at, end)
        if late is not None:
            self._last_outcome = self._timeline.put(at + by, lambda: answers([late]))

    def _suffer(
        self, fault: Fault, command: Command | None, duration: float, together: bool
    ) -> None:
        position = fault.position
        if fault.step is not None and self._lease is not None:
            position = (fault.step - self._lease.first) / (self._lease.last - self._lease.first)
        at = self._clock.now + position * duration
        broken = HostError("JaxRuntimeError", "connection closed by peer", transient=True)
        match fault.kind:
            case "die":
                self._health.end(fault.rank, at)
                # The others notice through their collectives before the process is reported.
                for rank in range(self._hosts):
                    if rank != fault.rank and rank % 2 == 0 and together:
                        self._timeline.see(at + 0.01, Raised(rank, broken))
                died = Died(fault.rank, "killed by signal 9")
                self._timeline.see(at + self._times.notice, died)
            case "freeze":
                self._health.end(fault.rank, at)
            case "stall":
                self._health.stall(fault.rank, at)
            case "raise":
                self._timeline.see(at, Raised(fault.rank, fault.error, "traceback"))
            case _:
                for rank in range(self._hosts) if together else (fault.rank,):
                    self._timeline.see(at, Raised(rank, broken))
        if command is None:
            self._health.starts[fault.rank] = NEVER

    def _pulse(self, rank: int) -> protocol.Pulse:
        now, step = self._clock.now, self._step or 0
        if self._lease is not None:
            # Others wait for a host that stalls in the step after its last.
            health = self._health
            until = min(now, health.stalls_at(rank), health.first_stall + self._times.step)
            compiling = 0.0 if self._compiled else self._times.compile
            ran = int(max(0.0, until - self._phase_since - compiling) / self._times.step + 1e-6)
            step = min(self._lease.last, self._lease.first + ran)
        return protocol.Pulse(
            rank=rank,
            pid=1000 + rank,
            phase=self._phase,
            phase_seconds=now - self._phase_since,
            step=step,
            memory_bytes=1 << 30,
            leaving=rank in self._leaving,
        )

    def _alive(self, rank: int) -> bool:
        return self._health.alive(rank, self._clock.now)
