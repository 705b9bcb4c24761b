import itertools

import pytest
from simulation import check_finished, simulate

from kernels.errors import LimitsExceeded, Overflow
from orchestrator import events, states
from orchestrator.errors import HostError, RunFailed
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.hosts.interface import Raised
from orchestrator.hosts.simulated_world import SimulatedPlan, Times
from workers.errors import CheckpointError, DataError, NonFiniteLoss, PlanMismatch


def test_an_undisturbed_run_does_each_step_once_with_leases_up_to_each_mark():
    run = simulate(max_steps=95)
    run.to_end()
    assert [(first, last) for _, first, last in run.world.leases] == [
        (0, 10), (10, 20), (20, 30), (30, 40), (40, 50),
        (50, 60), (60, 70), (70, 80), (80, 90), (90, 95),
    ]  # fmt: skip
    assert [event.step for event in run.of(events.CheckpointStarted)] == [30, 60, 90, 95]
    assert [(event.step, event.epoch) for event in run.of(events.Evaluated)] == [(50, 1), (95, 1)]
    assert run.losses() == {step: run.world.loss(step) for step in range(95)}
    kinds = [event.kind for _, event in run.log[:12]]
    assert kinds == [
        "launching", *["host_started"] * 4, "mesh_joined", "surveyed", "plan_made",
        "plan_confirmed", "restoring", "restored", "lease_done",
    ]  # fmt: skip
    assert run.controller.restarts.total == 0
    assert run.log[-1][1] == events.Finished(95)


def test_goodput_says_where_the_time_of_an_undisturbed_run_went():
    run = simulate()
    run.to_end()
    check_finished(run)
    seconds = run.ledger.seconds(run.clock.now)
    assert seconds == pytest.approx(
        {
            "launching": 6.0,
            "planning": 3.0,
            "restoring": 2.0,
            "compiling": 2.0,
            "training": 8.0,
            "waiting_for_data": 0.0,
            "saving": 1.5 - 1e-9 if seconds["saving"] > 1 else 0.5,
            "evaluating": 6.0,
            "coordinating": 2.0,
            "recovering": 0.0,
            "repeated_work": 0.0,
        }
    )


@pytest.mark.parametrize("epochs_between", [0, 1, 2, 3])
def test_evaluations_are_at_ends_of_epochs_and_at_the_end(epochs_between):
    run = simulate(epochs=4, evaluation={"every_epochs": epochs_between})
    run.to_end()
    expected = {0: [200], 1: [50, 100, 150, 200], 2: [100, 200], 3: [150, 200]}
    assert run.world.evaluated == expected[epochs_between]


@pytest.mark.parametrize("during", ["Launch", "Join", "Survey", "Prepare", "Restore", "RunLease",
                                    "Evaluate", "Finish"])  # fmt: skip
@pytest.mark.parametrize("kind", ["die", "freeze", "stall", "raise", "break"])
def test_one_fault_at_any_point_is_survived(during, kind):
    run = simulate(ScriptedFaults([Fault(kind, 2, during=during, position=0.9)]))
    run.to_end()
    check_finished(run)
    assert run.controller.restarts.total == 1
    (recovering,) = run.of(events.Recovering)
    alone = ("Launch", "Survey", "Prepare")
    if kind in ("die", "freeze", "raise") or during in (*alone, "RunLease"):
        # In other commands, one that stalls with a fresh pulse looks like those that wait for it.
        expected = [0] if (kind, during) == ("break", "RunLease") else [2]
        assert list(recovering.culprits) == expected


def test_a_death_is_named_though_the_others_report_first_and_the_last_checkpoint_is_restored():
    run = simulate(ScriptedFaults([Fault("die", 3, step=75)]))
    run.to_end()
    check_finished(run)
    (died,) = run.of(events.HostDied)
    assert (died.rank, died.pid, died.launch) == (3, 1003, 0)
    (recovering,) = run.of(events.Recovering)
    assert recovering.cause == "died"
    assert recovering.step == 70
    assert recovering.reason == "host 3 (pid 1003) died while training: killed by signal 9"
    assert not run.of(events.HostRaised)
    assert [event.step for event in run.of(events.Restored)] == [0, 60]
    assert run.ledger.seconds(run.clock.now)["repeated_work"] == pytest.approx(1.0)


def test_a_frozen_host_is_named_after_its_deadline_and_its_silence_is_measured():
    run = simulate(ScriptedFaults([Fault("freeze", 1, step=45)]), failures={"pulse_deadline": 12.0})
    run.to_end()
    check_finished(run)
    (frozen,) = run.of(events.HostFrozen)
    assert frozen.rank == 1
    assert 12.0 < frozen.pulse_age < 14.0
    dumped = {event.rank for event in run.of(events.StacksDumped)}
    assert dumped == {0, 2, 3}
    assert run.of(events.Recovering)[0].cause == "frozen"


def test_errors_before_the_pulse_deadline_do_not_hide_a_frozen_host():
    """Others' collectives may time out long before the frozen host's pulse deadline."""
    fault = Fault("freeze", 1, step=45)
    run = simulate(ScriptedFaults([fault]), failures={"pulse_deadline": 20.0})
    while not any(event.kind == "lease_done" and event.last == 40 for _, event in run.log):
        run.step()
    now = run.clock.now
    broken = HostError("JaxRuntimeError", "timed out", transient=True)
    run.group.report(now + 12.0, Raised(0, broken))
    run.to_end()
    check_finished(run)
    assert list(run.of(events.Recovering)[0].culprits) == [1]
    assert run.clock.now < now + 45.0


def test_a_host_that_lags_with_a_fresh_pulse_is_named_at_the_leases_deadline():
    run = simulate(ScriptedFaults([Fault("stall", 2, step=45)]), failures={"lease_timeout": 30.0})
    run.to_end()
    check_finished(run)
    (late,) = run.of(events.HostLate)
    assert (late.rank, late.phase, late.step) == (2, "training", 45)
    assert {event.rank for event in run.of(events.StacksDumped)} == {0, 1, 2, 3}


def test_a_collective_that_breaks_without_a_culprit_is_retried_after_the_grace():
    run = simulate(ScriptedFaults([Fault("break", 0, step=45)]), failures={"grace": 4.0})
    run.to_end()
    check_finished(run)
    broke_at = next(time for time, e in run.log if isinstance(e, events.HostRaised))
    began = next(time for time, e in run.log if isinstance(e, events.LeaseDone) and e.last == 40)
    assert broke_at == pytest.approx(began + 0.5 + 4.0, abs=0.3)
    assert "no host died or froze" in run.of(events.Recovering)[0].reason


def test_limits_are_raised_as_often_as_needed():
    run = simulate(needs={33: 7, 70: 9, 71: 8})
    run.to_end()
    check_finished(run)
    assert [(e.version, e.allowed, e.observed) for e in run.of(events.Replanned)] == [
        (1, 1, 7),
        (2, 7, 9),
    ]
    assert [event.version for event in run.of(events.PlanMade)] == [0, 1, 2]
    assert [event.version for event in run.of(events.PlanConfirmed)] == [0, 1, 2]
    assert [event.cause for event in run.of(events.Recovering)] == ["limits", "limits"]


def test_replanning_does_not_use_up_restarts():
    run = simulate(needs={5: 2, 6: 3, 7: 4}, failures={"max_restarts": 0}, lease_steps=1)
    run.to_end()
    check_finished(run)


def test_limits_set_by_hand_are_not_raised():
    limits = {
        "max_ids_per_partition": 1,
        "max_unique_ids_per_partition": 1,
        "buffer_size_per_device": 1,
    }
    run = simulate(needs={33: 7}, limits={"stack": limits})
    state = run.to_end()
    assert isinstance(state.error, LimitsExceeded)
    assert not run.of(events.Replanned)


def test_a_plan_that_does_not_follow_the_limits_ends_the_run():
    """A planner that ignores what was observed must not make the run restart for ever."""
    run = simulate(needs={33: 7})
    run.controller._around.planner.plan = lambda observed, previous, version, hosts: SimulatedPlan(
        version, 1
    )
    state = run.to_end()
    assert isinstance(state.error, LimitsExceeded)
    assert len(run.of(events.Replanned)) == 1


def test_a_mismatch_of_plans_names_the_host_and_is_not_retried():
    run = simulate(ScriptedFaults([Fault("mismatch", 2, during="Prepare")]))
    state = run.to_end()
    assert isinstance(state.error, PlanMismatch)
    assert "host 2 built plan another" in str(state.error)
    assert not run.world.leases
    assert run.controller.restarts.total == 0


@pytest.mark.parametrize(
    "error",
    [
        DataError("file 3: column 'clicks' holds a null"),
        NonFiniteLoss("the loss is NaN at step 12"),
        CheckpointError("checkpoint 30 cannot be read"),
    ],
)
def test_errors_that_would_come_again_end_the_run_as_they_are(error):
    run = simulate(ScriptedFaults([Fault("raise", 1, step=12, error=error)]))
    state = run.to_end()
    assert state.error is error
    assert run.controller.restarts.total == 0
    failed = run.of(events.Failed)[0]
    assert failed.error_type == type(error).__name__


def test_a_mistake_in_code_ends_the_run_and_shows_where():
    error = HostError("TypeError", "add got incompatible shapes", transient=False)
    run = simulate(ScriptedFaults([Fault("raise", 1, step=12, error=error)]))
    state = run.to_end()
    assert isinstance(state.error, RunFailed)
    assert "host 1 (pid 1001) failed while training: TypeError: add got" in str(state.error)
    assert "traceback" in str(state.error)
    assert run.controller.restarts.total == 0


def test_the_same_step_failing_again_and_again_gives_up_with_everyones_last_words():
    run = simulate(
        ScriptedFaults([Fault("die", 2, step=45, times=99)]), failures={"max_restarts": 3}
    )
    state = run.to_end()
    assert isinstance(state.error, RunFailed)
    assert run.controller.restarts.total == 3
    assert "gave up at step 40 after 4 failures in a row" in state.error.cause
    assert "host 2 (pid 1002) died while training" in state.error.cause
    assert set(state.error.last_words) == {0, 1, 2, 3}
    assert "killed by signal 9" in state.error.last_words[2]
    assert "log of host 0" in state.error.last_words[0]


def test_failures_with_progress_between_them_do_not_add_up():
    faults = [Fault("die", 1, step=step) for step in range(5, 100, 10)]
    run = simulate(ScriptedFaults(faults), failures={"max_restarts": 2}, checkpoints={"every": 5})
    run.to_end()
    check_finished(run)
    assert run.controller.restarts.total == 10


def test_no_restart_is_made_when_none_is_allowed():
    run = simulate(ScriptedFaults([Fault("die", 2, step=45)]), failures={"max_restarts": 0})
    state = run.to_end()
    assert isinstance(state.error, RunFailed)
    assert len(run.of(events.Launching)) == 1


def test_hosts_that_do_not_start_are_named_and_the_wait_between_tries_grows():
    fault = Fault("freeze", 3, during="Launch", times=99)
    run = simulate(ScriptedFaults([fault]), failures={"launch_timeout": 30.0, "max_restarts": 4})
    state = run.to_end()
    assert isinstance(state.error, RunFailed)
    assert "host 3 did not start in time" in str(state.error)
    assert "never started" in state.error.last_words[3]
    at = [time for time, event in run.log if isinstance(event, events.Launching)]
    waits = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert len(waits) == 4
    assert all(30.0 <= wait <= 39.0 for wait in waits)
    assert waits[-1] > waits[0]


def test_a_stop_finishes_the_step_saves_and_leaves():
    run = simulate()
    while run.controller.progress.step < 40:
        run.step()
    run.controller.request_stop()
    asked = run.clock.now
    run.to_end()
    assert isinstance(run.controller.state, states.Interrupted)
    step = run.controller.progress.step
    assert 40 < step < 44
    assert run.of(events.LeaseCut) == [events.LeaseCut(4, 50, step)]
    assert run.world.committed[-1] == step
    assert not run.world.evaluated
    assert run.of(events.StopRequested)
    assert run.log[-1][1] == events.Interrupted(step)
    assert run.losses() == {at: run.world.loss(at) for at in range(step)}
    assert run.clock.now - asked < 3.0


def test_a_stop_at_a_checkpoint_does_not_save_twice():
    run = simulate()
    while not run.of(events.CheckpointStarted):
        assert not isinstance(run.step(), states.Ended)
        if run.group.at_step >= 29:
            run.controller.request_stop()
    run.to_end()
    assert [event.step for event in run.of(events.CheckpointStarted)] == [30]
    assert run.world.committed == [30]


def test_a_stop_while_limits_are_raised_saves_what_was_done():
    run = simulate()
    plans, raised = run.controller.plans, []

    def outgrown(hosts, observed, *, step):
        if step < 20 or raised:
            return None
        raised.append(plans.raised(hosts, observed, [], step=step, reason="squeezed"))
        return raised[0]

    plans.outgrown = outgrown
    while not (isinstance(run.controller.state, states.Preparing) and run.controller.state.holding):
        run.step()
    run.controller.request_stop()
    assert isinstance(run.to_end(), states.Interrupted)
    assert run.controller.progress.step == run.world.committed[-1] == 20


def test_a_stop_before_training_leaves_at_once():
    run = simulate()
    run.step()
    run.controller.request_stop()
    before = run.clock.now
    run.to_end()
    assert isinstance(run.controller.state, states.Interrupted)
    assert run.clock.now - before <= 0.4


def test_a_stop_while_recovering_leaves_what_is_committed():
    run = simulate(ScriptedFaults([Fault("freeze", 2, step=45)]))
    while not isinstance(run.controller.state, states.Recovering):
        run.step()
    run.controller.request_stop()
    run.to_end()
    assert isinstance(run.controller.state, states.Interrupted)
    assert run.world.committed == [30]


def test_an_evaluation_that_was_lost_is_done_again_and_one_that_was_not_is_kept():
    lost = simulate(ScriptedFaults([Fault("die", 0, during="Evaluate")]), checkpoints={"every": 25})
    lost.to_end()
    check_finished(lost)
    assert lost.world.evaluated == [50, 50, 100]
    assert [event.step for event in lost.of(events.Evaluated)] == [50, 100]
    kept = simulate(ScriptedFaults([Fault("die", 0, step=50)]), checkpoints={"every": 25})
    kept.to_end()
    check_finished(kept)
    assert kept.world.evaluated == [50, 100]


def test_train_metrics_of_a_disturbed_run_are_those_of_an_undisturbed_one():
    plain = simulate()
    plain.to_end()
    disturbed = simulate(ScriptedFaults([Fault("die", 1, step=85), Fault("die", 2, step=66)]))
    disturbed.to_end()
    expected = plain.controller.progress.train_metrics.result()
    assert expected["examples"] == pytest.approx(50 * 64)
    assert disturbed.controller.progress.train_metrics.result() == pytest.approx(expected)


def test_several_overflows_make_one_plan():
    error = LimitsExceeded([
        Overflow("stack", "max_ids_per_partition", 1, 7),
        Overflow("stack", "buffer_size_per_device", 1, 16),
    ])  # fmt: skip
    run = simulate(ScriptedFaults([Fault("raise", 1, step=33, error=error)]))
    run.to_end()
    check_finished(run)
    assert [(e.version, e.limit, e.observed) for e in run.of(events.Replanned)] == [
        (1, "max_ids_per_partition", 7),
        (1, "buffer_size_per_device", 16),
    ]
    assert [event.version for event in run.of(events.PlanMade)] == [0, 1]
    assert run.controller.restarts.total == 1


def test_a_host_with_other_data_is_named_before_the_first_step():
    run = simulate(ScriptedFaults([Fault("other_data", 3, during="Prepare")]))
    state = run.to_end()
    assert isinstance(state.error, DataError)
    assert "host 3 sees other data than the driver" in str(state.error)
    assert "another, the driver's is data" in str(state.error)
    assert not run.world.leases


@pytest.mark.parametrize(("kind", "left"), [("die", 0), ("freeze", 4)])
def test_hosts_are_ended_at_once_unless_their_stacks_are_awaited(kind, left):
    faults = [Fault(kind, 2, step=45, times=2)]
    run = simulate(ScriptedFaults(faults), failures={"restart_delay": 5.0})
    for _ in range(2):
        while not isinstance(run.controller.state, states.Recovering):
            run.step()
        assert run.group.left == left
        until = run.controller.state.until
        while isinstance(run.controller.state, states.Recovering):
            run.step()
    assert run.clock.now >= until
    assert run.of(events.Launching)[-1].launch == 2
    run.to_end()
    check_finished(run)


def test_a_lost_save_costs_the_steps_since_the_one_before():
    run = simulate(ScriptedFaults([Fault("die", 1, step=61)]), times=Times(commit=60.0))
    run.to_end()
    check_finished(run)
    assert [event.step for event in run.of(events.Restored)] == [0, 0]
