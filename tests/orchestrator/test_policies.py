import dataclasses
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from kernels.errors import LimitsExceeded, Overflow
from orchestrator.config import FailureConfig
from orchestrator.errors import HostError
from orchestrator.policies import (
    Fatal,
    Lost,
    OverLimits,
    checkpoint_to_restore,
    evaluation_due,
    judge,
    next_lease,
    observe_overflow,
    restart_pause,
    save_due,
    saving_lease,
)
from orchestrator.roster import HostView
from orchestrator.schedule import Schedule
from workers.errors import CheckpointError, DataError
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
    assert evaluation_due(schedule, step + 1)
    assert not save_due(schedule, 0)
    assert not evaluation_due(schedule, 0)
    assert not evaluation_due(dataclasses.replace(schedule, evaluates=False), step)


def test_a_saving_lease_runs_nothing():
    lease = saving_lease(7, 3, "hash")
    assert (lease.first, lease.last, lease.save) == (7, 7, True)


@pytest.mark.parametrize(
    ("committed", "recorded", "step"),
    [
        ([], 0, None),
        ([30, 90, 60], 90, 90),
        ([30, 90, 60], 100, 90),
        ([30, 90, 60], 89, 60),
        ([30, 90, 60], 29, 90),
    ],
)
def test_the_newest_checkpoint_whose_steps_are_on_record_is_restored(committed, recorded, step):
    assert checkpoint_to_restore(committed, recorded) == step


def over(*overflows):
    return LimitsExceeded([Overflow(*overflow) for overflow in overflows])


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max_ids_per_partition", Observed(50, 20, 30)),
        ("max_unique_ids_per_partition", Observed(10, 50, 30)),
        ("buffer_size_per_device", Observed(10, 20, 50)),
    ],
)
def test_an_overflow_is_observed_as_what_the_batch_needs(limit, expected):
    known = {"s": Observed(10, 20, 30), "t": Observed(1, 1, 1)}
    observed = observe_overflow(known, over(("s", limit, 40, 50)))
    assert observed == {"s": expected, "t": Observed(1, 1, 1)}


def test_overflows_know_the_limits_of_a_plan_and_no_other():
    for limit in dataclasses.fields(kernels.Limits):
        assert observe_overflow({}, over(("s", limit.name, 1, 2)))
    with pytest.raises(KeyError):
        observe_overflow({}, over(("s", "required_buffer_size_per_device", 1, 2)))


def test_all_overflows_are_observed_at_once():
    error = over(
        ("s", "max_ids_per_partition", 4, 5),
        ("s", "buffer_size_per_device", 8, 16),
        ("n", "max_unique_ids_per_partition", 4, 7),
    )
    observed = observe_overflow({"s": Observed(9, 2, 3)}, error)
    assert observed == {"s": Observed(9, 2, 16), "n": Observed(0, 7, 0)}


def test_an_overflow_that_was_known_already_brings_nothing_new():
    known = {"s": Observed(50, 20, 30)}
    assert observe_overflow(known, over(("s", "max_ids_per_partition", 40, 50))) is None


def test_a_batch_that_overflowed_every_limit_fits_into_the_next_plan():
    """With the errors and plans of the real kernels."""
    table = kernels.TableSpec(
        vocabulary_size=64,
        embedding_dim=8,
        initializer=jax.nn.initializers.zeros,
        optimizer=kernels.SGDOptimizerSpec(learning_rate=0.1),
        combiner="sum",
        name="tags",
    )
    features = {
        "tags": kernels.FeatureSpec(
            name="tags", table_spec=table, input_shape=(8, 16), output_shape=(8, 8)
        )
    }
    topology = kernels.Topology(1, 2, 1)
    tight = kernels.Limits(8, 8, 16)
    plan = kernels.build_plan(features, topology, batch_size=8)
    plan = plan.with_limits(dict.fromkeys(plan.limits, tight))
    ids = np.arange(8 * 16).reshape(8, 16) % 64

    def preprocess(plan):
        specs = kernels.apply_plan(plan, features)
        return kernels.preprocess_sparse_dense_matmul_input(
            {"tags": ids}, None, specs, 2, 2, num_sc_per_device=1
        )

    with pytest.raises(LimitsExceeded) as caught:
        preprocess(plan)
    names = [overflow.limit for overflow in caught.value.overflows]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(kernels.Limits))
    observed = observe_overflow({}, caught.value)
    assert observed is not None
    inputs, _ = preprocess(plan.with_raised_limits(observed, headroom=1.0))
    assert inputs is not None


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
    error = over(("s", "max_ids_per_partition", 1, 2))
    found = verdict(host(0, died="signal 9"), host(1, error=error, error_at=99.0))
    assert isinstance(found, OverLimits)
    assert found.culprit.rank == 1


def test_the_overflows_of_all_hosts_are_one_error():
    one = over(("s", "max_ids_per_partition", 1, 2), ("t", "buffer_size_per_device", 8, 16))
    two = over(("s", "max_ids_per_partition", 1, 3), ("s", "buffer_size_per_device", 8, 24))
    found = verdict(host(0), host(1, error=one, error_at=99.0), host(2, error=two, error_at=99.0))
    assert isinstance(found, OverLimits)
    assert found.error.overflows == (
        Overflow("s", "max_ids_per_partition", 1, 3),
        Overflow("t", "buffer_size_per_device", 8, 16),
        Overflow("s", "buffer_size_per_device", 8, 24),
    )


def test_a_death_comes_before_a_checkpoint_that_cannot_be_read():
    error = CheckpointError("cannot be read")
    unreadable = host(1, error=error, error_at=99.0)
    found = verdict(host(0, died="signal 9"), unreadable)
    assert isinstance(found, Lost)
    assert (found.cause, found.culprits[0].rank) == ("died", 0)
    assert verdict(host(0), unreadable) is None
    broken = host(0, error=BROKEN, error_at=98.0)
    found = verdict(broken, unreadable, now=99.0 + SETTINGS.grace)
    assert isinstance(found, Fatal)
    assert (found.culprit.rank, found.error) == (1, error)


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


@pytest.mark.parametrize("together", ["training", "evaluating"])
def test_with_equal_steps_the_late_host_is_the_one_that_does_not_wait_for_others(together):
    found = verdict(
        host(0, phase=together, phase_seconds=9.0),
        host(1, phase="waiting_for_data", phase_seconds=2.0),
        host(2, phase=together, phase_seconds=9.0),
        deadline=100.0,
    )
    assert [culprit.rank for culprit in found.culprits] == [1]
    assert "waiting_for_data at step 10" in found.reason


def test_a_host_that_has_begun_to_save_waits_for_the_one_that_has_not():
    found = verdict(host(0, phase="saving"), host(1), deadline=100.0)
    assert [culprit.rank for culprit in found.culprits] == [1]


def test_late_hosts_that_nothing_tells_apart_are_all_named():
    answered = host(0, phase="idle", reply=Joined(0, 1, 2))
    found = verdict(answered, host(1, phase_seconds=9.0), host(2), host(3), deadline=100.0)
    assert [culprit.rank for culprit in found.culprits] == [1, 2, 3]
    assert found.reason == (
        "host 1 (pid 1001), host 2 (pid 1002), host 3 (pid 1003) did not finish in time while "
        "training: they are all training at step 10, with a fresh pulse, and nothing tells which "
        "of them held the others up"
    )


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
