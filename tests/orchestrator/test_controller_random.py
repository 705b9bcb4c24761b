"""Random runs, whose faults and delays come from a seed, on a clock that is not the world's.

The last test is made as large as one likes by environment variables:

    EMBERAY_SIMULATED_HOSTS=1024 EMBERAY_SIMULATED_LEASES=10000 EMBERAY_SIMULATED_SEED=11 \\
        pytest tests/orchestrator/test_controller_random.py -k many_leases
"""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import STEPS_PER_EPOCH, check_finished, simulate

from orchestrator import events, states
from orchestrator.errors import RunFailed
from orchestrator.hosts.faults import RandomDelays, RandomFaults

HOSTS = int(os.environ.get("EMBERAY_SIMULATED_HOSTS", "64"))
LEASES = int(os.environ.get("EMBERAY_SIMULATED_LEASES", "300"))
SEED = int(os.environ.get("EMBERAY_SIMULATED_SEED", "11"))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    hosts=st.integers(1, 12),
    chance=st.floats(0.0, 0.4),
    lease_steps=st.integers(1, 40),
    every=st.integers(1, 70),
    needs=st.dictionaries(st.integers(0, 99), st.integers(2, 50), max_size=3),
)
def test_a_run_with_any_faults_ends_as_if_there_had_been_none(
    seed, hosts, chance, lease_steps, every, needs
):
    run = simulate(
        RandomFaults(seed, chance, most=12),
        hosts=hosts,
        lease_steps=lease_steps,
        checkpoints={"every": every},
        needs=needs,
        failures={"max_restarts": 12, "lease_timeout": 40.0, "evaluate_timeout": 40.0},
    )
    run.to_end()
    check_finished(run)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), chance=st.floats(0.3, 1.0))
def test_faults_without_end_end_the_run_with_an_error(seed, chance):
    run = simulate(
        RandomFaults(seed, chance, most=10_000),
        failures={"max_restarts": 2, "lease_timeout": 40.0, "evaluate_timeout": 40.0},
    )
    state = run.to_end()
    if isinstance(state, states.Finished):
        check_finished(run)
    else:
        assert isinstance(state, states.Failed)
        assert isinstance(state.error, RunFailed)
        assert len(state.error.last_words) == 4


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), stop_after=st.integers(0, 400))
def test_a_stop_at_any_moment_leaves_in_good_order(seed, stop_after):
    run = simulate(RandomFaults(seed, 0.05, most=5), failures={"lease_timeout": 40.0})
    for _ in range(stop_after):
        if isinstance(run.step(), states.Ended):
            break
    run.controller.request_stop()
    state = run.to_end()
    assert isinstance(state, states.Interrupted | states.Finished)
    finishing = not run.of(events.Recovering)
    if finishing and isinstance(state, states.Interrupted) and run.controller.progress.step:
        assert run.world.committed[-1] == run.controller.progress.step


@pytest.mark.parametrize("hosts", [200, 1000])
def test_many_hosts(hosts):
    run = simulate(
        RandomFaults(7, 0.1, most=3),
        hosts=hosts,
        lease_steps=25,
        failures={"lease_timeout": 20.0},
    )
    run.to_end()
    check_finished(run)
    assert run.controller.restarts.total > 0


def test_many_leases_under_faults_delays_and_changes_of_size():
    """As large as one likes: see the numbers at the top of this file."""
    chance = random.Random(SEED)
    steps = -(-LEASES // STEPS_PER_EPOCH) * STEPS_PER_EPOCH
    sizes = [HOSTS // 2, HOSTS * 3 // 4]
    run = simulate(
        RandomFaults(SEED, 0.05, most=LEASES // 10),
        hosts=HOSTS,
        delays=RandomDelays(SEED, chance=0.02, longest=30.0),
        epochs=steps // STEPS_PER_EPOCH,
        lease_steps=1,
        evaluation={"every_epochs": 10},
        checkpoints={"every": 10},
        failures={"lease_timeout": 20.0, "evaluate_timeout": 30.0, "max_restarts": 50},
        elastic={"sizes": sizes, "shrink_after": 10.0, "grow_after": 10.0},
    )
    checked = 0
    while not isinstance(run.step(), states.Ended):
        if len(run.world.leases) >= checked + LEASES // 20:
            checked = len(run.world.leases)
            run.world.capacity = chance.choice([*sizes, HOSTS, HOSTS * 2])
            run.group.tell_to_leave(chance.randrange(min(sizes)))
    assert isinstance(run.controller.state, states.Finished)
    assert run.losses() == {step: run.world.loss(step) for step in range(steps)}
    assert len(run.world.leases) >= LEASES
    assert run.controller.restarts.total >= LEASES // 40
    assert {event.hosts for event in run.of(events.Launching)} == {HOSTS, *sizes}
    assert {event.reason for event in run.of(events.HandingOver)} == {"preempted", "room"}
