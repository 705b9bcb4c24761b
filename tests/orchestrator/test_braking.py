"""The two rounds in which hosts are told to end a lease or an evaluation early."""

from types import SimpleNamespace

import pytest

from orchestrator import states
from orchestrator.braking import brake
from orchestrator.hosts.interface import Held
from orchestrator.roster import HostView
from workers.protocol import Lease


class Around:
    """A group and a journal that write down what they are told."""

    def __init__(self):
        self.told = []
        self.group = SimpleNamespace(
            hold=lambda number: self.told.append(("hold", number)),
            release=lambda number, last: self.told.append(("release", number, last)),
        )
        self.events = []
        self.journal = SimpleNamespace(record=self.events.append)


def training(first=10, last=30):
    lease = Lease(4, "plan", first, last, save=True)
    return states.Training(since=0.0, deadline=9.0, lease=lease)


def evaluating():
    return states.Evaluating(since=0.0, deadline=9.0, split="test", number=5)


def views(*begun, number):
    held = [
        None if steps is None else Held(rank, number, steps) for rank, steps in enumerate(begun)
    ]
    return [HostView(rank, held=one) for rank, one in enumerate(held)]


def test_nothing_is_asked_of_them_without_a_reason():
    around = Around()
    for state in (training(), evaluating()):
        assert brake(state, around, views(None, number=0), lambda: False) is state
    saving = training(20, 20)
    assert brake(saving, around, views(None, number=0), lambda: True) is saving
    assert around.told == []


@pytest.mark.parametrize("begun", [(12, 14), (14, 12), (14, 0)])
def test_a_lease_ends_at_the_step_that_the_furthest_has_begun(begun):
    around = Around()
    state = brake(training(), around, views(None, None, number=4), lambda: True)
    assert state.braking == "holding"
    assert brake(state, around, views(None, 14, number=4), lambda: True) is state
    assert brake(state, around, views(13, 14, number=3), lambda: True) is state
    state = brake(state, around, views(*begun, number=4), lambda: True)
    assert around.told == [("hold", 4), ("release", 4, 14)]
    assert (state.lease.last, state.lease.save, state.braking) == (14, False, "released")
    assert [(event.planned, event.last) for event in around.events] == [(30, 14)]
    assert brake(state, around, views(*begun, number=4), lambda: True) is state


def test_a_lease_that_is_in_its_last_step_is_left_as_it_is():
    around = Around()
    state = brake(training(), around, [], lambda: True)
    state = brake(state, around, views(30, 29, number=4), lambda: True)
    assert (state.lease.last, state.lease.save) == (30, True)
    assert around.events == []


def test_an_evaluation_is_left_after_the_step_that_the_furthest_has_begun():
    around = Around()
    state = brake(evaluating(), around, views(None, None, number=5), lambda: True)
    state = brake(state, around, views(0, 3, number=5), lambda: True)
    assert around.told == [("hold", 5), ("release", 5, 3)]
    assert state.braking == "released"
