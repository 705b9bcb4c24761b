"""The invariants fail where they should: a good run's events, each time with one thing wrong."""

import dataclasses

import pytest
from invariants import Invariants, check_deadline

from orchestrator import events, states
from orchestrator.config import FailureConfig
from orchestrator.hosts.simulated_world import World

WORLD = World(steps_per_epoch=50)


def lease(number, first, last, launch=0):
    losses = tuple(WORLD.loss(step) for step in range(first, last))
    return events.LeaseDone(
        launch=launch, lease=number, first=first, last=last, loss=0.0, examples=0, elapsed=1.0,
        seconds={}, stages={}, losses=losses, steps_per_epoch=50,
    )  # fmt: skip


def recovery():
    return events.Recovering("died", (0,), "host 0 died", 20, 1)


GOOD = [
    events.Launching(0, 4),
    events.PlanMade(0, "plan-0", "auto", "{}"),
    events.PlanConfirmed(0, "plan-0"),
    events.Restored(0),
    lease(0, 0, 10),
    lease(1, 10, 20),
    recovery(),
    events.Launching(1, 4),
    events.PlanConfirmed(0, "plan-0"),
    events.Restored(10),
    lease(3, 10, 30, launch=1),
    events.Finished(30),
]


def feed(told):
    """Hosts that run the leases that are told of, and one more before the recovery."""
    world = World(steps_per_epoch=50, committed=[10])
    watch = Invariants(world)
    for event in told:
        if isinstance(event, events.LeaseDone):
            world.leases.append((event.launch, event.first, event.last))
        if isinstance(event, events.Recovering):
            world.leases.append((0, 20, 30))
        watch(0.0, event)


def test_a_good_run_passes():
    feed(GOOD)


@pytest.mark.parametrize(
    ("index", "wrong"),
    [
        (1, events.PlanMade(0, "plan-x", "auto", "{}")),
        (2, None),
        (3, None),
        (3, events.Restored(7)),
        (5, lease(1, 0, 10)),
        (5, lease(0, 10, 20)),
        (5, lease(1, 10, 20, launch=1)),
        (5, dataclasses.replace(lease(1, 10, 20), losses=(0.5,) * 10)),
        (5, dataclasses.replace(lease(1, 10, 20), last=19)),
        (7, events.Launching(2, 4)),
        (8, None),
        (8, events.PlanConfirmed(1, "plan-1")),
        (9, events.Restored(20)),
        (10, lease(3, 20, 30, launch=1)),
    ],
)
def test_one_thing_wrong_is_found(index, wrong):
    told = [*GOOD[:index], *([] if wrong is None else [wrong]), *GOOD[index + 1 :]]
    with pytest.raises(AssertionError):
        feed(told)


def test_a_lost_lease_is_found():
    world = World(steps_per_epoch=50)
    watch = Invariants(world)
    for event in GOOD[:5]:
        if isinstance(event, events.LeaseDone):
            world.leases.append((event.launch, event.first, event.last))
        watch(0.0, event)
    world.leases += [(0, 10, 20), (0, 20, 30)]
    with pytest.raises(AssertionError):
        watch(0.0, lease(2, 20, 30))
    with pytest.raises(AssertionError, match="a lease was lost"):
        watch(0.0, events.Launching(1, 4))


def test_nothing_follows_the_end():
    with pytest.raises(AssertionError, match="after the end"):
        feed([*GOOD, events.Launching(2, 4)])


def test_a_state_that_outlasts_its_deadline_is_found():
    settings = FailureConfig(grace=3.0)
    waiting = states.Joining(since=0.0, deadline=10.0)
    check_deadline(waiting, 13.0, settings)
    with pytest.raises(AssertionError):
        check_deadline(waiting, 14.0, settings)
