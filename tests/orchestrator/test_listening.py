"""A driver that did not listen for a while blames no host for it."""

from __future__ import annotations

import pytest

from orchestrator.config import FailureConfig
from orchestrator.hosts.interface import Answered, PulseSeen
from orchestrator.hosts.simulated_world import FakeClock
from orchestrator.listening import Listener
from orchestrator.policies import judge
from orchestrator.roster import Roster
from orchestrator.states import Joining, Recovering
from workers.protocol import Hello, Pulse

SETTINGS = FailureConfig(pulse_interval=1.0, pulse_deadline=6.0)


class Telling:
    """Hosts whose news come one at a time, as they do from a long queue."""

    def __init__(self, clock, news):
        self._clock, self._news = clock, iter(news)

    def poll(self, timeout):
        seen = list(next(self._news))
        self._clock.now += 0.0 if seen else timeout
        return seen


def pulse(rank):
    return PulseSeen(rank, Pulse(rank, 1, "training", 0.0, 5, 0))


def test_time_between_polls_counts_only_beyond_what_they_wait_and_some_leeway():
    clock = FakeClock()
    listener = Listener(Telling(clock, [[], [], [], []]), clock, leeway=1.0)
    clock.now = 50.0
    assert listener.hear(0.2) == ([], 0.0)
    clock.now += 0.9
    assert listener.hear(0.2)[1] == 0.0
    clock.now += 30.0
    assert listener.hear(0.2)[1] == pytest.approx(30.0)
    assert listener.hear(0.2)[1] == 0.0


def test_hosts_whose_news_are_not_read_yet_are_neither_frozen_nor_late():
    clock, roster = FakeClock(), Roster(3)
    for rank in range(3):
        roster.take(Answered(rank, Hello(rank, 1, "host", "host:1")), clock())
    news = [[pulse(0), pulse(1), pulse(2)], [pulse(1)], *[[]] * 14, [pulse(1)], *[[]] * 14]
    listener = Listener(Telling(clock, news), clock, SETTINGS.pulse_interval)
    state = Joining(since=0.0, deadline=20.0)

    def verdict():
        nonlocal state
        seen, absent = listener.hear(0.2)
        roster.excuse(absent)
        state = state.postponed(absent)
        for one in seen:
            roster.take(one, clock())
        return judge(
            roster.views, doing="joining", deadline=state.deadline, now=clock(), settings=SETTINGS
        )

    assert verdict() is None
    clock.now += 60.0  # stopped
    assert verdict() is None
    assert state.deadline == pytest.approx(79.8)
    assert verdict() is None
    # One that is really silent is still found, as long after as ever.
    for _ in range(26):
        assert verdict() is None
    clock.now += 0.8
    frozen = verdict()
    assert frozen is not None
    assert [view.rank for view in frozen.culprits] == [0, 2]


def test_what_has_no_deadline_for_hosts_is_not_postponed():
    state = Recovering(since=0.0, pause=3.0, until=5.0)
    assert state.postponed(60.0) is state
