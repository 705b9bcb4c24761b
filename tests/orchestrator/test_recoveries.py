"""Where the time of recoveries went."""

import pytest
from simulation import simulate

from orchestrator import events
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.hosts.simulated_world import Times
from orchestrator.observe import Recoveries
from orchestrator.observe.recoveries import PARTS


def measured(run):
    run.to_end()
    recoveries = Recoveries()
    for time, event in run.log:
        recoveries(time, event)
    return recoveries.seconds


def test_an_undisturbed_run_has_none():
    assert measured(simulate()) == []


def test_the_parts_of_a_death_are_those_of_its_new_launch():
    times = Times(start=5.0, join=1.0, prepare=1.0, restore=2.0, compile=2.0, step=0.1)
    run = simulate(ScriptedFaults([Fault("die", 3, step=75)]), times=times)
    (seconds,) = measured(run)
    expected = {"start": 5.0, "join": 1.0, "plan": 1.0, "restore": 2.0, "compile": 2.0}
    assert seconds == pytest.approx(
        {"detect": 0.0, "pause": 0.0, "first_step": 0.1, "total": 11.1, **expected}, abs=0.21
    )
    assert seconds["total"] == pytest.approx(sum(seconds[part] for part in PARTS))


def test_a_freeze_counts_from_its_last_pulse_with_the_time_for_stacks():
    fault = ScriptedFaults([Fault("freeze", 1, step=45)])
    run = simulate(fault, failures={"pulse_deadline": 12.0, "grace": 3.0})
    (seconds,) = measured(run)
    (frozen,) = run.of(events.HostFrozen)
    assert seconds["detect"] == frozen.pulse_age
    assert seconds["pause"] == pytest.approx(3.0, abs=0.21)


def test_a_fault_before_the_next_step_makes_one_longer_recovery():
    run = simulate(
        ScriptedFaults([Fault("die", 3, step=75), Fault("die", 1, during="Restore", launch=1)])
    )
    (seconds,) = measured(run)
    assert len(run.of(events.Recovering)) == 2
    assert seconds["start"] == pytest.approx(10.0, abs=0.5)


def test_the_stacks_are_waited_for_no_longer_than_they_take():
    fault = ScriptedFaults([Fault("stall", 2, step=45)])
    run = simulate(fault, failures={"lease_timeout": 30.0, "grace": 20.0})
    (seconds,) = measured(run)
    assert len(run.of(events.StacksDumped)) == 4
    assert seconds["pause"] == pytest.approx(0.1, abs=0.31)
