"""Limits that batches go beyond without failing are raised between leases."""

import pytest

from kernels import Limits
from kernels.errors import Overflow
from orchestrator import events, states
from orchestrator.hosts.simulated_world import STACK, SimulatedPlan, SimulatedPlanner, World
from orchestrator.observe.console import describe
from orchestrator.policies import outgrown
from orchestrator.progress import History
from tests.orchestrator.simulation import STEPS_PER_EPOCH, check_finished, simulate
from workers.protocol import Observed

BY_HAND = {
    STACK: {
        "max_ids_per_partition": 1,
        "max_unique_ids_per_partition": 1,
        "buffer_size_per_device": 8,
    }
}


def squeezing(needs, **options):
    world = World(steps_per_epoch=STEPS_PER_EPOCH, needs=needs, squeezes=True)
    return simulate(world=world, minibatching=True, **options)


def test_limits_are_raised_after_the_lease_and_the_run_goes_on_where_it_is():
    run = squeezing({33: 7, 71: 9})
    run.to_end()
    check_finished(run)
    assert not run.of(events.Recovering)
    assert [event.step for event in run.of(events.Restored)] == [0]
    told = [(e.first, e.last, e.steps, e.minibatches) for e in run.of(events.Squeezed)]
    assert told == [(30, 40, 1, 7), (70, 80, 1, 2)]
    raised = {
        (e.version, e.step, e.allowed, e.observed, e.reason) for e in run.of(events.Replanned)
    }
    assert raised == {(1, 40, 1, 7, "squeezed"), (2, 80, 7, 9, "squeezed")}
    assert [e.version for e in run.of(events.PlanConfirmed)] == [0, 1, 2]
    text = describe(run.of(events.Replanned)[0])
    assert text == (
        "step 40: batches took minibatches or lost ids; raising max_ids_per_partition of table "
        "stack stack from 1 to hold 7: plan 1, compiled anew"
    )
    assert describe(run.of(events.Squeezed)[1]) == (
        "steps 70 to 79 of train: 1 batches exceeded the limits and took up to 2 minibatches"
    )


def test_nothing_is_raised_for_the_last_step():
    run = squeezing({2 * STEPS_PER_EPOCH - 1: 5})
    run.to_end()
    check_finished(run)
    assert len(run.of(events.Squeezed)) == 1
    assert not run.of(events.Replanned)


def test_limits_set_by_hand_stay():
    run = squeezing({33: 7, 34: 3}, limits=BY_HAND)
    run.to_end()
    check_finished(run)
    assert [event.steps for event in run.of(events.Squeezed)] == [2]
    assert not run.of(events.Replanned)


def test_a_planner_that_does_not_follow_is_asked_once(monkeypatch):
    monkeypatch.setattr(
        SimulatedPlanner,
        "plan",
        lambda _, observed, previous, version, hosts: SimulatedPlan(version, 2),
    )
    run = squeezing({33: 7, 43: 6, 53: 8})
    run.to_end()
    check_finished(run)
    # At step 40 for 7, which the 6 after it adds nothing to, and at step 60 for 8.
    assert sorted({event.step for event in run.of(events.Replanned)}) == [40, 60]
    assert [event.version for event in run.of(events.PlanMade)] == [0, 1, 2]


def test_a_plan_with_minibatching_is_not_used_without_it(monkeypatch):
    history = History(launches=1, cluster=(4, 4))
    for minibatching, expected in ((False, []), (True, [5])):
        monkeypatch.setattr(SimulatedPlan, "minibatching", False)
        run = simulate(history=history, plan=SimulatedPlan(4, 9), minibatching=minibatching)
        while not isinstance(run.step(), states.Training):
            pass
        assert [event.version for event in run.of(events.PlanMade)] == expected


def test_dropped_ids_are_a_warning():
    event = events.Squeezed("train", 3, 5, 0, 1, {"users": 1200, "items": 3})
    assert describe(event) == (
        "warning: steps 3 to 4 of train: ids that found no room were left out: 1,200 of table "
        "stack users, 3 of table stack items"
    )


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (Observed(8, 4, 16), []),
        (Observed(9, 4, 16), [("max_ids_per_partition", 8, 9)]),
        (
            Observed(8, 5, 17),
            [("max_unique_ids_per_partition", 4, 5), ("buffer_size_per_device", 16, 17)],
        ),
    ],
)
def test_what_has_been_outgrown(observed, expected):
    limits = {"a": Limits(8, 4, 16), "b": Limits(1, 1, 8)}
    seen = {"a": observed, "b": Observed(2, 2, 2), "gone": Observed(9, 9, 9)}
    found = outgrown(limits, seen, by_hand={"b"})
    assert found == tuple(Overflow("a", *one) for one in expected)
