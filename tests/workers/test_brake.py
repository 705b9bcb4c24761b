"""Hosts agree on the step at which they end a lease."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.brake import Brake


def test_without_a_hold_every_step_may_run():
    brake = Brake()
    brake.begin(0, first=5)
    assert all(brake.may_run(step) for step in range(5, 9))


def test_a_hold_that_is_not_released_is_an_error_and_one_of_another_lease_is_nothing():
    brake = Brake(release_seconds=0.05)
    brake.begin(1, first=0)
    assert brake.hold(0) == 0
    assert brake.may_run(0)
    assert brake.hold(1) == 1
    brake.release(0, 1)
    with pytest.raises(TimeoutError, match="held before step 1"):
        brake.may_run(1)


@settings(max_examples=40, deadline=None)
@given(hosts=st.integers(1, 4), hold_at=st.integers(0, 20), last=st.just(20))
def test_all_hosts_end_at_the_same_step_whenever_they_are_held(hosts, hold_at, last):
    """Hosts meet at a barrier in every step, as in a collective, so one that stops alone hangs."""
    brakes = [Brake(release_seconds=10.0) for _ in range(hosts)]
    barrier = threading.Barrier(hosts)
    there = threading.Event()
    ends = [0] * hosts

    def train(rank):
        step = 0
        brakes[rank].begin(7, first=0)
        while step < last and brakes[rank].may_run(step):
            if step == hold_at:
                there.set()
            barrier.wait(10.0)
            step += 1
        there.set()
        ends[rank] = step

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(hosts)]
    for thread in threads:
        thread.start()
    assert there.wait(10.0)
    agreed = max(brake.hold(7) for brake in brakes)
    for brake in brakes:
        brake.release(7, agreed)
    for thread in threads:
        thread.join(20.0)
        assert not thread.is_alive()
    assert set(ends) == {agreed}
    assert hold_at <= agreed <= last
