"""Runs whose hosts must leave, come and go, or meet steps that are not finite."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import check_finished, simulate

from orchestrator import events, states
from orchestrator.hosts.faults import Fault, RandomFaults, ScriptedFaults
from orchestrator.hosts.simulated_world import Times, World
from workers.errors import NonFiniteLoss


def until(run, condition, limit=20_000):
    for _ in range(limit):
        if condition():
            return
        assert not isinstance(run.step(), states.Ended)
    raise AssertionError("never came to that")


def reached(run, step):
    return lambda: run.controller.progress.step >= step


# Preemption.


def test_hosts_that_must_leave_finish_their_step_and_others_take_over():
    run = simulate(lease_steps=50, checkpoints={"every": 50})
    until(run, lambda: run.group.at_step >= 13)
    run.group.tell_to_leave(2)
    told = run.clock.now
    until(run, lambda: run.of(events.HandingOver))
    until(run, lambda: len(run.of(events.Launching)) == 2)
    assert run.clock.now - told < 4.0
    (handing,) = run.of(events.HandingOver)
    assert (handing.reason, handing.culprits, handing.hosts) == ("preempted", (2,), 4)
    (cut,) = run.of(events.LeaseCut)
    assert 13 < cut.last < 30
    assert cut.planned == 50
    run.to_end()
    check_finished(run)
    assert run.of(events.Restored)[-1].step == cut.last
    assert run.controller.restarts.total == 0
    assert run.ledger.seconds(run.clock.now)["repeated_work"] == 0.0


def test_hosts_that_must_leave_do_not_wait_for_an_evaluation_before_a_resize():
    run = simulate(times=Times(evaluate=60.0))
    until(run, lambda: isinstance(run.controller.state, states.Evaluating))
    run.controller.request_resize(2)
    until(run, lambda: run.of(events.HandingOver))
    assert run.controller.state.braking == "no"
    run.group.tell_to_leave(3)
    told = run.clock.now
    until(run, lambda: run.controller.state.braking != "no")
    assert run.clock.now - told < 3.0
    handing = [(event.reason, event.culprits, event.hosts) for event in run.of(events.HandingOver)]
    assert handing == [("resize", (), 2), ("preempted", (3,), 2)]
    run.to_end()
    check_finished(run)


def test_a_host_that_dies_before_it_can_hand_over_is_recovered_from():
    run = simulate(ScriptedFaults([Fault("die", 2, step=44)]))
    until(run, reached(run, 40))
    run.group.tell_to_leave(2)
    run.to_end()
    check_finished(run)


def test_the_driver_leaves_in_time_though_the_hosts_do_not():
    run = simulate(ScriptedFaults([Fault("freeze", 1, step=45)]))
    until(run, reached(run, 40))
    until(run, lambda: run.group.at_step >= 45)
    run.controller.request_stop(within=5.0)
    asked = run.clock.now
    run.to_end()
    assert isinstance(run.controller.state, states.Interrupted)
    assert 5.0 <= run.clock.now - asked < 5.5
    assert run.world.committed == [30]


# Sizes.


def test_a_run_that_is_resized_goes_on_where_it_was():
    run = simulate()
    until(run, reached(run, 40))
    run.controller.request_resize(2)
    until(run, reached(run, 70))
    run.controller.request_resize(6)
    run.to_end()
    check_finished(run)
    assert [event.hosts for event in run.of(events.Launching)] == [4, 2, 6]
    assert [event.devices for event in run.of(events.MeshJoined)] == [4, 2, 6]
    versions = [event.version for event in run.of(events.PlanMade)]
    assert versions == [0, 1, 2]
    assert run.ledger.seconds(run.clock.now)["repeated_work"] == 0.0


def test_a_resize_to_the_present_size_changes_nothing():
    run = simulate()
    until(run, reached(run, 40))
    run.controller.request_resize(4)
    run.to_end()
    check_finished(run)
    assert len(run.of(events.Launching)) == 1


def test_a_run_shrinks_when_a_host_does_not_come_back_and_grows_when_it_does():
    faults = ScriptedFaults([Fault("die", 3, step=45)])
    run = simulate(
        faults, epochs=20, elastic={"sizes": [1, 2], "shrink_after": 20.0, "grow_after": 30.0}
    )
    until(run, reached(run, 40))
    run.world.capacity = 3
    until(run, reached(run, 200))
    (shrunk,) = run.of(events.Shrunk)
    assert (shrunk.hosts, shrunk.missing) == (2, (3,))
    assert run.controller.sizing.hosts == 2
    run.world.capacity = 4
    run.to_end()
    check_finished(run, total=1000)
    assert [event.hosts for event in run.of(events.Launching)] == [4, 4, 2, 4]
    assert [event.reason for event in run.of(events.HandingOver)] == ["room"]


def test_a_run_that_may_not_shrink_says_which_hosts_are_missing():
    run = simulate(ScriptedFaults([Fault("die", 3, step=45)]), failures={"max_restarts": 1})
    until(run, reached(run, 40))
    run.world.capacity = 3
    state = run.to_end()
    assert isinstance(state, states.Failed)
    assert "host 3 did not start in time" in str(state.error)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    chance=st.floats(0.0, 0.2),
    moves=st.lists(
        st.tuples(
            st.integers(1, 400),
            st.sampled_from(["resize", "leave", "lose", "return"]),
            st.integers(1, 6),
        ),
        max_size=8,
    ),
)
def test_any_order_of_faults_and_changes_of_size_ends_as_if_there_had_been_none(
    seed, chance, moves
):
    run = simulate(
        RandomFaults(seed, chance, most=6),
        failures={"max_restarts": 20, "lease_timeout": 40.0, "evaluate_timeout": 40.0},
        elastic={"sizes": [1, 2, 3], "shrink_after": 20.0, "grow_after": 10.0},
    )
    for wait, kind, number in moves:
        for _ in range(wait):
            if isinstance(run.step(), states.Ended):
                break
        match kind:
            case "resize":
                run.controller.request_resize(number)
            case "leave":
                run.group.tell_to_leave(number)
            case "lose":
                run.world.capacity = number
            case "return":
                run.world.capacity = 100
    run.world.capacity = 100
    run.to_end()
    check_finished(run)


# Steps that are not finite.


def finite(run):
    return {step: loss for step, loss in run.losses().items() if math.isfinite(loss)}


def test_by_default_a_step_that_is_not_finite_ends_the_run():
    run = simulate(world=World(steps_per_epoch=50, bad_steps=frozenset({45})))
    state = run.to_end()
    assert isinstance(state, states.Failed)
    assert isinstance(state.error, NonFiniteLoss)
    assert "step 45" in str(state.error)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_steps_that_are_not_finite_are_left_out(policy):
    bad = frozenset({7, 45, 46})
    world = World(steps_per_epoch=50, bad_steps=bad, skips_bad=policy == "skip")
    run = simulate(world=world, failures={"nan": policy})
    run.to_end()
    assert isinstance(run.controller.state, states.Finished)
    assert run.controller.progress.step == 100
    assert finite(run) == {step: world.loss(step) for step in range(100) if step not in bad}
    skipped = run.of(events.StepSkipped)
    assert [(event.step, event.policy) for event in skipped] == [(s, policy) for s in sorted(bad)]
    assert run.controller.restarts.total == (0 if policy == "skip" else 3)
    assert [event.cause for event in run.of(events.Recovering)] == (
        [] if policy == "skip" else ["non_finite"] * 3
    )


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_too_many_steps_that_are_not_finite_end_the_run(policy):
    bad = frozenset(range(20, 30))
    world = World(steps_per_epoch=50, bad_steps=bad, skips_bad=policy == "skip")
    run = simulate(world=world, failures={"nan": policy, "max_skipped": 4})
    state = run.to_end()
    assert isinstance(state, states.Failed)
    assert isinstance(state.error, NonFiniteLoss)
    assert "failures.max_skipped is 4" in str(state.error)
