"""A run of the real controller with simulated hosts, and what must hold of any such run."""

from dataclasses import dataclass, field

import pytest
from invariants import Invariants, check_deadline

from orchestrator import events, states
from orchestrator.config_loading import make_config
from orchestrator.controller import Controller
from orchestrator.events import Journal
from orchestrator.goodput import Ledger
from orchestrator.hosts.simulated import SimulatedHosts
from orchestrator.hosts.simulated_world import FakeClock, SimulatedPlanner, World
from orchestrator.progress import History
from orchestrator.schedule import Schedule
from orchestrator.surroundings import Surroundings

STEPS_PER_EPOCH = 50


@dataclass
class Run:
    """A simulated run; ``log`` holds (time, event)."""

    controller: Controller
    group: SimulatedHosts
    world: World
    clock: FakeClock
    ledger: Ledger
    log: list = field(default_factory=list)

    def of(self, kind):
        return [event for _, event in self.log if isinstance(event, kind)]

    def step(self):
        """One step, after which what must always hold is checked."""
        before = self.clock.now
        state = self.controller.step()
        assert self.clock.now - before <= 0.2 + 1e-9
        check_deadline(state, self.clock.now, self.controller.config.failures)
        assert sum(self.ledger.seconds(self.clock.now).values()) == pytest.approx(self.clock.now)
        return state

    def to_end(self, limit=200_000):
        for _ in range(limit):
            state = self.step()
            if isinstance(state, states.Ended):
                assert self.group.left == 0
                return state
        raise AssertionError(f"no end after {limit} steps, at {self.controller.state}")

    def losses(self):
        """Losses by step as they stand at the end, as ``metrics.jsonl`` would have them."""
        losses = {}
        for _, event in self.log:
            if isinstance(event, events.Restored):
                losses = {step: loss for step, loss in losses.items() if step < event.step}
            if isinstance(event, events.LeaseDone):
                for step, loss in enumerate(event.losses, event.first):
                    assert step not in losses, f"step {step} stands twice"
                    losses[step] = loss
        return losses


def simulate(
    faults=None,
    *,
    needs=None,
    world=None,
    times=None,
    delays=None,
    history=None,
    plan=None,
    **config,
):
    settings = {
        "hosts": 4,
        "devices_per_host": 1,
        "epochs": 2,
        "lease_steps": 10,
        "checkpoints": {"every": 30},
    }
    checked = make_config(settings | config)
    clock = FakeClock()
    world = world or World(steps_per_epoch=STEPS_PER_EPOCH, needs=needs or {})
    group = SimulatedHosts(clock, world, faults=faults, times=times, delays=delays)
    log, ledger = [], Ledger(0.0)

    def note(time, event):
        # Not of every host of every launch: there may be a million.
        if not isinstance(event, events.HostStarted) or checked.hosts <= 64:
            log.append((clock.now, event))

    around = Surroundings(
        group=group,
        planner=SimulatedPlanner(),
        committed=group.committed,
        set_aside=group.set_aside,
        journal=Journal([note, Invariants(world)]),
        ledger=ledger,
        clock=clock,
    )
    schedule = Schedule.of(checked, world.steps_per_epoch)
    controller = Controller(
        checked, schedule, around, data="data", history=history or History(), plan=plan
    )
    run = Run(controller, group, world, clock, ledger, log)
    run.step()
    return run


def check_finished(run, total=2 * STEPS_PER_EPOCH):
    """What must hold of every run that reached its end, whatever happened on the way."""
    assert isinstance(run.controller.state, states.Finished)
    assert run.losses() == {step: run.world.loss(step) for step in range(total)}
    assert run.controller.progress.step == total
    assert run.controller.progress.examples == total * run.world.batch_size
    assert run.world.committed[-1] == total
    ends = range(STEPS_PER_EPOCH, total + 1, STEPS_PER_EPOCH)
    assert sorted(run.controller.progress.evaluations) == list(ends)
    assert run.controller.restarts.total == len(run.of(events.Recovering))
    launches = [event.launch for event in run.of(events.Launching)]
    assert launches == list(range(launches[0], launches[0] + len(launches)))
