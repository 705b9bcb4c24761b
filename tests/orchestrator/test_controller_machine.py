"""Anything may happen to a run, in any order and at any moment.

What must hold after every event is checked by `invariants.Invariants`, as in any simulated run.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from simulation import check_finished, simulate

from orchestrator import states
from orchestrator.hosts.faults import Fault

SIZES = [1, 2, 3]


class Faults:
    """Strikes the next command with what was asked for."""

    def __init__(self):
        self.next = None

    def strike(self, command, launch, hosts):
        fault, self.next = self.next, None
        return None if fault is None or fault.rank >= hosts else fault


class AnythingMayHappen(RuleBasedStateMachine):
    @initialize(hosts=st.integers(1, 6), lease_steps=st.integers(1, 40), every=st.integers(1, 70))
    def begin(self, hosts, lease_steps, every):
        self.faults = Faults()
        self.run = simulate(
            self.faults,
            hosts=hosts,
            lease_steps=lease_steps,
            checkpoints={"every": every},
            failures={"max_restarts": 1000, "lease_timeout": 40.0, "evaluate_timeout": 40.0},
            elastic={"sizes": SIZES, "shrink_after": 20.0, "grow_after": 10.0},
        )

    def going(self):
        return not isinstance(self.run.controller.state, states.Ended)

    @rule(times=st.integers(1, 60))
    def go_on(self, times):
        for _ in range(times):
            if self.going():
                self.run.step()

    @precondition(going)
    @rule(
        kind=st.sampled_from(["die", "freeze", "stall", "raise", "break"]),
        rank=st.integers(0, 5),
        position=st.floats(0.0, 1.0),
    )
    def something_breaks(self, kind, rank, position):
        self.faults.next = Fault(kind, rank, position=position)

    @rule(hosts=st.integers(1, 6))
    def somebody_resizes(self, hosts):
        self.run.controller.request_resize(hosts)

    @rule(rank=st.integers(0, 5))
    def a_machine_is_taken_back(self, rank):
        self.run.group.tell_to_leave(rank)

    @rule(capacity=st.integers(1, 8))
    def the_cluster_changes(self, capacity):
        self.run.world.capacity = capacity

    def teardown(self):
        if hasattr(self, "run"):
            self.run.world.capacity = 100
            self.run.to_end()
            check_finished(self.run)


AnythingMayHappen.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None
)
TestAnythingMayHappen = AnythingMayHappen.TestCase
