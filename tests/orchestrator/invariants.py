"""What must hold after every single event of any run."""

from orchestrator import events, states

GRACE = 0.2 + 1e-6
"""The longest wait of one step of the controller, in seconds."""


class Invariants:
    """A sink of the journal, which fails the test as soon as something is not as it must be.

    * Launches are counted without a gap, and nothing follows the end.
    * Hosts run by one plan at a time: the newest that was made, confirmed in this launch.
    * A checkpoint that is restored is one that was committed.
    * Steps are applied once, in order, from there on: each lease begins where the one before it
      ended, with a loss for each of its steps.
    * No lease is lost: the next is not begun before the last is done, or its loss is told of.

    Args:
        world: Of the simulated hosts.
    """

    def __init__(self, world):
        self.world = world
        self.launch = None
        self.made = None
        self.confirmed = None
        self.step = None
        self.lease = -1
        self.accounted = len(world.leases)
        self.ended = False

    def __call__(self, time, event):
        assert not self.ended, f"{event} after the end"
        match event:
            case events.Launching():
                assert self.launch is None or event.launch == self.launch + 1
                assert self.open == 0, "a lease was lost"
                self.launch, self.confirmed, self.step = event.launch, None, None
            case events.PlanMade():
                assert self.made is None or event.version == self.made[0] + 1
                self.made = event.version, event.hash
            case events.PlanConfirmed():
                assert self.made in (None, (event.version, event.hash)), "an old plan"
                assert self.confirmed is None or event.version > self.confirmed
                self.confirmed = event.version
            case events.Restored():
                assert self.confirmed is not None
                assert event.step == 0 or event.step in self.world.committed
                self.step = event.step
            case events.LeaseDone():
                self.lease_done(event)
            case events.Replanned() | events.HandingOver() | events.Recovering():
                self.accounted = len(self.world.leases)
            case events.Finished() | events.Interrupted() | events.Failed():
                self.ended = True
            case _:
                pass

    @property
    def open(self):
        """Leases that the hosts have begun and of which nothing has been heard."""
        return len(self.world.leases) - self.accounted

    def lease_done(self, event):
        assert self.confirmed is not None, "a lease without a plan"
        assert event.launch == self.launch
        assert event.lease > self.lease
        assert event.first == self.step <= event.last
        assert len(event.losses) == event.last - event.first
        for step, loss in enumerate(event.losses, event.first):
            assert loss == self.world.loss(step) or loss != loss
        launch, first, last = self.world.leases[-1]
        assert (launch, first) == (self.launch, event.first)
        assert event.last <= last
        assert self.open <= 1
        self.lease, self.step, self.accounted = event.lease, event.last, len(self.world.leases)


def check_deadline(state, now, settings):
    """No state outlasts its deadline, but for the grace given to errors that may follow."""
    if isinstance(state, states.Waiting):
        assert now <= state.deadline + settings.grace + GRACE, state
    if isinstance(state, states.Recovering):
        assert now <= state.until + GRACE, state
