import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import LimitsExceeded
from orchestrator.config import FailureConfig
from orchestrator.errors import HostError
from orchestrator.leases import Schedule
from orchestrator.policies import (
    Fatal,
    Lost,
    OverLimits,
    checkpoint_to_restore,
    evaluation_due,
    judge,
    merge_observed,
    next_lease,
    raise_limits,
    restart_pause,
    save_due,
    saving_lease,
)
from orchestrator.roster import HostView
from workers.errors import DataError
from workers.protocol import Hello, Joined, Observed, Pulse

SCHEDULES = st.builds(
    Schedule,
    steps_per_epoch=st.integers(1, 40),
    total_steps=st.integers(1, 200),
    lease_steps=st.integers(1, 60),
    checkpoint_every=st.integers(1, 60),
    evaluate_every=st.integers(0, 3),
)
SETTINGS = FailureConfig()
BROKEN = HostError("JaxRuntimeError", "closed", transient=True)


@given(SCHEDULES)
def test_leases_cover_every_step_once_and_never_run_past_a_mark(schedule):
    step, number = 0, 0
    while step < schedule.total_steps:
        lease = next_lease(schedule, step, number, "hash")
        assert (lease.first, lease.number, lease.plan_hash) == (step, number, "hash")
        assert 1 <= lease.last - lease.first <= schedule.lease_steps
        for inner in range(lease.first + 1, lease.last):
            assert inner % schedule.steps_per_epoch and inner % schedule.checkpoint_every
        assert lease.save == (
            lease.last % schedule.checkpoint_every == 0 or lease.last == schedule.total_steps
        )
        step, number = lease.last, number + 1
    assert step == schedule.total_steps
    assert save_due(schedule, step)
    assert evaluation_due(schedule, step)
    assert not save_due(schedule, 0)
    assert not evaluation_due(schedule, 0)
    assert not evaluation_due(dataclasses.replace(schedule, evaluates=False), step)


def test_a_saving_lease_runs_nothing():
    lease = saving_lease(7, 3, "hash")
    assert (lease.first, lease.last, lease.save) == (7, 7, True)


def test_the_newest_checkpoint_is_restored():
    assert checkpoint_to_restore([]) is None
    assert checkpoint_to_restore([30, 90, 60]) == 90


OBSERVED = st.builds(Observed, *[st.integers(0, 100)] * 3)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), OBSERVED), max_size=4))
def test_merged_observations_are_the_largest_of_each(parts):
    merged = merge_observed(*parts)
    assert set(merged) == {name for part in parts for name in part}
    for name, observed in merged.items():
        for field in dataclasses.fields(Observed):
            largest = max(getattr(part[name], field.name) for part in parts if name in part)
            assert getattr(observed, field.name) == largest


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max_ids_per_partition", Observed(50, 20, 30)),
        ("max_unique_ids_per_partition", Observed(10, 50, 30)),
        ("buffer_size_per_device", Observed(10, 20, 50)),
        ("required_buffer_size_per_device", Observed(10, 20, 50)),
    ],
)
def test_a_limit_is_raised_to_what_the_batch_needs(limit, expected):
    known = {"s": Observed(10, 20, 30), "t": Observed(1, 1, 1)}
    raised = raise_limits(known, LimitsExceeded("s", limit, 40, 50))
    assert raised == {"s": expected, "t": Observed(1, 1, 1)}


def test_limits_that_were_known_already_or_are_unknown_are_not_raised():
    known = {"s": Observed(50, 20, 30)}
    assert raise_limits(known, LimitsExceeded("s", "max_ids_per_partition", 40, 50)) is None
    assert raise_limits(known, LimitsExceeded("s", "some_other_limit", 40, 50)) is None
    new = raise_limits({}, LimitsExceeded("n", "max_ids_per_partition", 4, 5))
    assert new == {"n": Observed(5, 0, 0)}


def host(rank, *, heard_at=100.0, step=10, phase="training", phase_seconds=1.0, **fields):
    pulse = Pulse(rank, 1000 + rank, phase, phase_seconds, step, 1)
    hello = Hello(rank, 1000 + rank, "node", "address")
    view = HostView(rank, hello=hello, pulse=pulse, heard_at=heard_at)
    return dataclasses.replace(view, **fields)


def verdict(*hosts, now=100.0, deadline=math.inf):
    return judge(hosts, doing="training", deadline=deadline, now=now, settings=SETTINGS)


def test_nothing_is_wrong_with_hosts_that_work():
    assert verdict(host(0), host(1, heard_at=100.0 - SETTINGS.pulse_deadline)) is None


def test_an_error_that_comes_again_outweighs_everything():
    error = DataError("null in column a")
    found = verdict(
        host(0, died="signal 9"), host(1, heard_at=0.0), host(2, error=error, error_at=99.0)
    )
    assert isinstance(found, Fatal)
    assert (found.culprit.rank, found.error) == (2, error)


def test_limits_come_before_a_death():
    error = LimitsExceeded("s", "max_ids_per_partition", 1, 2)
    found = verdict(host(0, died="signal 9"), host(1, error=error, error_at=99.0))
    assert isinstance(found, OverLimits)
    assert found.culprit.rank == 1


def test_the_dead_are_blamed_before_the_frozen_and_those_that_raised():
    found = verdict(
        host(0, error=BROKEN, error_at=90.0), host(1, heard_at=0.0), host(2, died="signal 9")
    )
    assert isinstance(found, Lost)
    assert (found.cause, [culprit.rank for culprit in found.culprits]) == ("died", [2])
    assert "host 2 (pid 1002) died while training: signal 9" in found.reason
    assert not found.hanging


def test_errors_are_believed_only_after_the_grace():
    raised = host(1, error=BROKEN, error_at=100.0)
    assert verdict(host(0), raised, now=100.0 + SETTINGS.grace - 0.01) is None
    found = verdict(host(0), raised, now=100.0 + SETTINGS.grace)
    assert isinstance(found, Lost)
    assert (found.cause, found.culprits[0].rank) == ("raised", 1)
    assert "JaxRuntimeError: closed" in found.reason


def test_a_silence_short_of_the_deadline_explains_errors_of_others():
    now = 100.0 + SETTINGS.grace
    silent = host(2, heard_at=now - SETTINGS.pulse_deadline * 0.75)
    found = verdict(host(0), host(1, error=BROKEN, error_at=100.0), silent, now=now)
    assert isinstance(found, Lost)
    assert (found.cause, found.culprits[0].rank) == ("frozen", 2)
    assert found.hanging


def test_the_late_host_is_the_one_with_the_fewest_steps():
    found = verdict(host(0, step=12), host(1, step=11), host(2, step=12), deadline=100.0)
    assert isinstance(found, Lost)
    assert (found.cause, found.culprits[0].rank) == ("late", 1)


def test_with_equal_steps_the_late_host_is_the_one_that_does_not_train():
    found = verdict(
        host(0, phase_seconds=9.0),
        host(1, phase="waiting_for_data", phase_seconds=2.0),
        deadline=100.0,
    )
    assert found.culprits[0].rank == 1
    assert "waiting_for_data at step 10" in found.reason


def test_a_host_that_has_answered_is_not_late():
    answered = host(0, step=1, reply=Joined(0, 1, 2))
    found = verdict(answered, host(1, step=5), deadline=100.0)
    assert found.culprits[0].rank == 1


def test_many_culprits_are_counted_not_listed():
    found = verdict(*[host(rank, died="node lost") for rank in range(10)])
    assert "host 2 (pid 1002) and 7 more died" in found.reason


def test_pauses_between_restarts_double_up_to_half_a_minute():
    pauses = [restart_pause(count, SETTINGS) for count in range(1, 9)]
    assert pauses == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert restart_pause(10_000, SETTINGS) == 30.0
