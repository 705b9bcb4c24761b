"""Disks without room: training goes on without checkpoints until there is some."""

import pytest
from simulation import check_finished, simulate

from orchestrator import events, states
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.storage import Storage
from workers.errors import StorageFull
from workers.protocol import Lease

FULL = StorageFull("there is no room for a checkpoint in 'here'")


def out_of_room(**settings):
    """A run whose host 1 finds no room for the save after step 60; and what is free, to be set."""
    run = simulate(ScriptedFaults([Fault("raise", 1, step=65, error=FULL)]), **settings)
    free = [1000]
    run.controller._storage._free = lambda: free[0]
    return run, free


def until(run, condition):
    for _ in range(20_000):
        if condition():
            return
        assert not isinstance(run.step(), states.Ended)
    raise AssertionError("never came to that")


def test_a_run_goes_on_without_checkpoints_until_there_is_room():
    run, free = out_of_room()
    until(run, lambda: run.of(events.CheckpointPostponed))
    (recovering,) = run.of(events.Recovering)
    assert (recovering.cause, recovering.reason) == ("storage", str(FULL))
    assert "1,000 were not enough" in run.of(events.CheckpointPostponed)[0].reason
    free[0] = 2000
    run.to_end()
    check_finished(run)
    assert run.of(events.CheckpointStarted)[-1].step == 100


def test_it_ends_with_an_error_if_there_is_none_at_the_end():
    run, _ = out_of_room()
    state = run.to_end()
    assert isinstance(state, states.Failed)
    assert isinstance(state.error, StorageFull)
    assert "the state of step 100 cannot be saved" in str(state.error)
    assert "go on with --resume" in str(state.error)
    assert run.controller.progress.step == 100


def test_a_save_that_fails_each_time_gives_up():
    faults = [Fault("raise", 1, step=65, error=FULL, launch=launch) for launch in range(20)]
    run = simulate(ScriptedFaults(faults), failures={"max_restarts": 2, "restart_delay": 0.1})
    free = [1000]

    def more_each_time():
        free[0] *= 2
        return free[0]

    run.controller._storage._free = more_each_time
    state = run.to_end()
    assert isinstance(state, states.Failed)
    assert state.error == FULL
    assert len(run.of(events.Recovering)) == 2


@pytest.mark.parametrize(("free", "saves"), [(1000, False), (1100, False), (1101, True)])
def test_clearly_more_room_is_asked_for_than_was_not_enough(free, saves):
    bytes_free = [1000]
    storage = Storage(lambda: bytes_free[0])
    lease = Lease(0, "plan", 0, 8, save=True)
    assert storage.allow(lease) is lease
    bytes_free[0] = 7  # what the save that fails has left to the next one
    assert storage.allow(lease) is lease
    storage.ran_out()
    bytes_free[0] = free
    assert storage.allow(lease).save == saves
    assert storage.allow(Lease(1, "plan", 0, 8)) == Lease(1, "plan", 0, 8)
