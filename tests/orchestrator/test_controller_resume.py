"""Runs that a second driver goes on with, and what they are restored from."""

import dataclasses
import json

import pytest
from simulation import check_finished, simulate

from orchestrator import events, states
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.hosts.interface import Raised
from orchestrator.hosts.simulated_world import SimulatedPlan, Times, World
from orchestrator.progress import History
from workers.errors import CheckpointError


def at_step(run, step):
    while run.controller.progress.step < step:
        assert not isinstance(run.step(), states.Ended)


def history_of(run, limits="auto"):
    return History(
        launches=len(run.of(events.Launching)),
        furthest=run.controller.progress.furthest,
        leases=tuple((e.first, e.last, e.examples) for e in run.of(events.LeaseDone)),
        evaluations=run.controller.progress.evaluations,
        limits=limits,
        cluster=(run.controller.config.hosts, run.controller.config.devices),
    )


def check_finished_after(first, second):
    assert isinstance(second.controller.state, states.Finished)
    assert second.controller.progress.examples == 100 * second.world.batch_size
    assert sorted(second.controller.progress.evaluations) == [50, 100]


def test_a_new_driver_goes_on_where_the_last_one_was():
    world = World(steps_per_epoch=50)
    first = simulate(world=world)
    at_step(first, 80)
    first.group.kill_all()
    second = simulate(world=world, history=history_of(first), plan=SimulatedPlan(1, 1))
    second.to_end()
    assert isinstance(second.controller.state, states.Finished)
    assert not second.of(events.Surveyed)
    assert [event.launch for event in second.of(events.Launching)] == [1]
    assert [event.step for event in second.of(events.Restored)] == [60]
    assert second.losses() == {step: world.loss(step) for step in range(60, 100)}
    assert second.controller.progress.examples == 100 * world.batch_size
    assert sorted(second.controller.progress.evaluations) == [50, 100]
    assert second.ledger.seconds(second.clock.now)["repeated_work"] > 1.0


def test_a_stop_in_the_last_lease_leaves_the_evaluation_to_the_next_driver():
    world = World(steps_per_epoch=50)
    first = simulate(world=world)
    at_step(first, 90)
    while first.group.at_step < 99:
        first.step()
    first.controller.request_stop()
    first.to_end()
    assert isinstance(first.controller.state, states.Interrupted)
    assert (first.controller.progress.step, world.evaluated) == (100, [50])
    assert world.committed[-1] == 100
    second = simulate(world=world, history=history_of(first), plan=SimulatedPlan(0, 1))
    second.to_end()
    check_finished_after(first, second)
    assert world.evaluated == [50, 100]
    assert [event.step for event in second.of(events.Restored)] == [100]


LIMITS = {"stack": {
    "max_ids_per_partition": 1, "max_unique_ids_per_partition": 1, "buffer_size_per_device": 8,
}}  # fmt: skip


@pytest.mark.parametrize(("before", "now"), [(LIMITS, "auto"), ("auto", LIMITS)])
def test_limits_that_were_changed_by_hand_are_planned_anew(before, now):
    run = simulate(history=History(launches=1, limits=before), plan=SimulatedPlan(4, 9), limits=now)
    run.to_end()
    check_finished(run)
    assert len(run.of(events.Surveyed)) == 1
    (made,) = run.of(events.PlanMade)
    assert (made.version, made.limits) == (5, now)
    assert json.loads(made.plan)["limit"] == 1
    assert [event.version for event in run.of(events.PlanConfirmed)] == [5]


def unreadable(times):
    error = CheckpointError("checksum of array.json is wrong")
    return Fault("raise", 1, during="Restore", launch=None, times=times, error=error)


def test_a_checkpoint_that_cannot_be_restored_is_skipped_for_the_one_before():
    world = World(steps_per_epoch=50)
    first = simulate(world=world, times=Times(commit=0.5))
    at_step(first, 100)
    first.group.kill_all()
    assert world.committed == [30, 60, 90]
    second = simulate(
        ScriptedFaults([unreadable(2)]), world=world, history=history_of(first),
        plan=SimulatedPlan(0, 1), failures={"max_restarts": 0},
    )  # fmt: skip
    second.to_end()
    check_finished_after(first, second)
    assert [(e.step, e.reason) for e in second.of(events.CheckpointSkipped)] == [
        (90, "checksum of array.json is wrong"),
        (60, "checksum of array.json is wrong"),
    ]
    assert [event.step for event in second.of(events.Restored)] == [30]
    assert [event.cause for event in second.of(events.Recovering)] == ["checkpoint"] * 2
    assert world.committed == [60, 90, 100]


def test_the_last_checkpoint_is_not_skipped():
    world = World(steps_per_epoch=50)
    first = simulate(world=world, checkpoints={"every": 60})
    at_step(first, 80)
    first.group.kill_all()
    assert world.committed == [60]
    second = simulate(
        ScriptedFaults([unreadable(9)]), world=world, history=history_of(first),
        plan=SimulatedPlan(0, 1),
    )  # fmt: skip
    state = second.to_end()
    assert isinstance(state.error, CheckpointError)
    assert world.committed == [60]
    assert not second.of(events.CheckpointSkipped)


def test_a_death_while_restoring_is_not_taken_for_an_unreadable_checkpoint():
    world = World(steps_per_epoch=50)
    first = simulate(world=world, times=Times(commit=0.5))
    at_step(first, 70)
    first.group.kill_all()
    second = simulate(
        ScriptedFaults([Fault("die", 2, during="Restore")]), world=world,
        history=history_of(first), plan=SimulatedPlan(0, 1),
    )  # fmt: skip
    while not isinstance(second.controller.state, states.Restoring):
        second.step()
    # A survivor may report what broke under its hands as the checkpoint's fault.
    soon = second.clock.now + 1.1
    second.group.report(soon, Raised(1, CheckpointError("cannot be read")))
    second.to_end()
    check_finished_after(first, second)
    assert [event.cause for event in second.of(events.Recovering)] == ["died"]
    assert [event.step for event in second.of(events.Restored)] == [60]


def test_a_commit_that_only_the_hosts_see_counts():
    run = simulate(max_steps=20)
    run.controller._around = dataclasses.replace(run.controller._around, committed=lambda: ())
    run.to_end()
    assert isinstance(run.controller.state, states.Finished)


def test_a_commit_that_nobody_sees_fails_the_run():
    run = simulate(max_steps=20)
    run.controller._around = dataclasses.replace(run.controller._around, committed=lambda: ())
    run.group.committed = lambda: ()
    state = run.to_end()
    assert isinstance(state.error, CheckpointError)
    assert "step 20 was saved but is not committed; committed are none" in str(state.error)
