"""A driver that did not listen for a while blames no host for it."""

from __future__ import annotations

import pytest
from simulation import check_finished, simulate

from kernels.errors import EmberayError
from orchestrator import events, states
from orchestrator.config import FailureConfig, RunConfig
from orchestrator.hosts.interface import Answered, PulseSeen, Raised
from orchestrator.hosts.simulated_world import FakeClock
from orchestrator.listening import Listener
from orchestrator.policies import judge
from orchestrator.prediction_run import Interrupted, PredictionRun
from orchestrator.roster import Roster
from orchestrator.states import Recovering
from workers.protocol import Hello, Pulse

SETTINGS = FailureConfig(pulse_interval=1.0, pulse_deadline=8.0)
STOPPED = 5000.0
"""Seconds, longer than every deadline."""


class Telling:
    """Hosts whose news come one at a time, as they do from a long queue."""

    def __init__(self, clock, news=(), slow=0.0):
        self._clock, self._news, self._slow = clock, list(news), slow

    def poll(self, timeout):
        self._clock.now += self._slow
        if self._news:
            return [self._news.pop(0)]
        self._clock.now += timeout
        return []


def pulse(rank):
    return PulseSeen(rank, Pulse(rank, 1, "training", 0.0, 5, 0))


def trickle(run):
    """Let the news of simulated hosts come one at a time, too."""
    poll, waiting = run.group.poll, []

    def one(timeout):
        if not waiting:
            waiting.extend(poll(timeout))
        return [waiting.pop(0)] if waiting else []

    run.group.poll = one


def test_time_between_polls_counts_only_beyond_what_they_wait_and_some_leeway():
    clock = FakeClock()
    listener = Listener(Telling(clock), clock, SETTINGS)
    clock.now = 50.0
    assert listener.hear(0.2).absent == 0.0
    clock.now += 1.9
    assert listener.hear(0.2).absent == 0.0
    clock.now += 30.0
    heard = listener.hear(0.2)
    assert heard.absent == pytest.approx(30.0)
    assert heard.now == clock.now
    assert listener.hear(0.2).absent == 0.0


def test_polls_that_always_take_long_are_no_excuse():
    clock, roster = FakeClock(), Roster(2)
    listener = Listener(Telling(clock, slow=3.0), clock, SETTINGS)
    for rank in range(2):
        roster.take(Answered(rank, Hello(rank, 1, "host", "host:1")), clock())
    polls = 0
    verdict = None
    while verdict is None:
        polls += 1
        heard = listener.hear(0.2)
        heard.excuse(roster, 0.0)
        roster.take(pulse(0), heard.now)
        verdict = judge(roster.views, doing="", deadline=1e9, now=heard.now, settings=SETTINGS)
    assert polls == 4  # 8 seconds, and those of the second poll, the first that was late


def test_no_time_before_the_hosts_were_told_is_added_to_what_they_have():
    clock = FakeClock()
    listener = Listener(Telling(clock), clock, SETTINGS)
    listener.hear(0.2)
    clock.now += 600.0  # the driver waits for its storage, and then tells the hosts something
    since = clock.now - 5.0
    assert listener.hear(0.2).excuse(Roster(1), since) == pytest.approx(5.2)


def test_an_error_that_others_may_explain_is_waited_on_for_as_long_as_ever():
    clock, roster = FakeClock(), Roster(2)
    listener = Listener(Telling(clock), clock, SETTINGS)
    listener.hear(0.2)
    roster.take(Raised(1, EmberayError("x"), ""), clock.now)
    clock.now += 60.0
    heard = listener.hear(0.2)
    heard.excuse(roster, 0.0)
    error_at = roster.views[1].error_at
    assert error_at is not None
    assert heard.now - error_at < 1.0
    assert error_at <= heard.now


def test_a_host_that_is_really_silent_is_still_found():
    clock, roster = FakeClock(), Roster(2)
    listener = Listener(Telling(clock), clock, SETTINGS)
    for rank in range(2):
        roster.take(Answered(rank, Hello(rank, 1, "host", "host:1")), clock())
    listener.hear(0.2)
    clock.now += 60.0
    listener.hear(0.2).excuse(roster, 0.0)
    began = clock.now
    verdict = None
    while verdict is None:
        heard = listener.hear(0.2)
        heard.excuse(roster, 0.0)
        roster.take(pulse(0), heard.now)
        verdict = judge(roster.views, doing="", deadline=1e9, now=heard.now, settings=SETTINGS)
    assert [view.rank for view in verdict.culprits] == [1]
    assert clock.now - began == pytest.approx(8.0, abs=0.6)


@pytest.mark.parametrize(
    "during",
    [states.Launching, states.Joining, states.Restoring, states.Training, states.Evaluating],
)
def test_a_run_goes_on_after_a_stop_of_its_driver(during):
    run = simulate(elastic={"sizes": [2], "shrink_after": 60.0})
    trickle(run)
    while not isinstance(run.controller.state, during):
        run.step()
    run.step()
    run.clock.now += STOPPED
    run.to_end()
    check_finished(run)
    assert run.controller.restarts.total == 0
    assert not run.of(events.Shrunk)


def test_so_does_a_prediction():
    clock, told = FakeClock(), []

    class Hosts(Telling):
        def launch(self, assignments):
            told.append("launch")
            self._news = [
                Answered(one.rank, Hello(one.rank, 1, "host", "h:1")) for one in assignments
            ]

        def poll(self, timeout):
            clock.now += STOPPED if len(self._news) == 3 else 0.0
            return super().poll(timeout)

        def send(self, command):
            told.append(type(command).__name__)
            run.stopping = True

        def kill_all(self): ...

        def room(self):
            return 0

        def awaits_room(self):
            return False

    run = PredictionRun(
        RunConfig(hosts=4, batch_size=64, elastic={"sizes": [1]}),
        Hosts(clock),  # pyright: ignore
        None,  # pyright: ignore
        data="data",
        step=1,
        parts=[0],
        say=told.append,
        clock=clock,
    )
    with pytest.raises(Interrupted):
        run.lead()
    assert told == ["starting 4 hosts", "launch", "Join"]


def test_what_has_no_deadline_for_hosts_is_not_postponed():
    state = Recovering(since=0.0, pause=3.0, until=5.0)
    assert state.postponed(60.0) is state
