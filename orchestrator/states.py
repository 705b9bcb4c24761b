"""The states of a run, and what each waits for.

    Created → Launching → Joining → Surveying → Preparing → Restoring → Training ⇄ Evaluating
                                 │           ↑                      │
                                 └─ planned ─┘                      ↓
                                                            Finishing → Finished | Interrupted
                                                                    └→ Launching, to hand over

    Training → Preparing → Training               limits were raised: the hosts keep their state
    any of them → Recovering → Launching          a host died, froze, failed or is late
    any of them → Failed                          another try would not help, or too many did not

Surveying is passed over when there is a plan already: after a recovery, and on resume, unless
``limits`` has been changed since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from orchestrator.planning import Plan
from workers import protocol
from workers.protocol import Lease

__all__ = [
    "Created",
    "Ended",
    "Evaluating",
    "Failed",
    "Finished",
    "Finishing",
    "Interrupted",
    "Joining",
    "Launching",
    "Preparing",
    "Recovering",
    "Restoring",
    "State",
    "Surveying",
    "Training",
    "Waiting",
]


@dataclass(frozen=True, kw_only=True)
class State:
    """Base of all states. Times are on the controller's clock, in seconds."""

    since: float
    doing: ClassVar[str]
    """What the hosts are at, for people: "while …"."""

    def postponed(self, seconds: float) -> Self:
        """The state with so much more time for the hosts, if they have a deadline."""
        del seconds
        return self


@dataclass(frozen=True, kw_only=True)
class Created(State):
    """Nothing has begun."""

    doing: ClassVar[str] = "not started"


@dataclass(frozen=True, kw_only=True)
class Waiting(State):
    """All hosts were told to do one thing, and every one of them is to answer."""

    deadline: float
    """When all must have answered."""
    reply: ClassVar[type]
    """What they answer with."""
    time_kind: ClassVar[str]
    """The kind of time (``orchestrator.goodput.KINDS``) that is spent here."""

    def postponed(self, seconds: float) -> Self:
        """See ``State.postponed``."""
        return replace(self, deadline=self.deadline + seconds) if seconds else self


@dataclass(frozen=True, kw_only=True)
class Launching(Waiting):
    """Host processes start."""

    doing: ClassVar[str] = "starting"
    reply: ClassVar[type] = protocol.Hello
    time_kind: ClassVar[str] = "launching"
    launch: int

    def postponed(self, seconds: float) -> Self:
        """See ``State.postponed``; so is the time after which fewer hosts go on."""
        later = super().postponed(seconds)
        return replace(later, since=self.since + seconds) if seconds else self


@dataclass(frozen=True, kw_only=True)
class Joining(Waiting):
    """They join one mesh."""

    doing: ClassVar[str] = "joining the mesh"
    reply: ClassVar[type] = protocol.Joined
    time_kind: ClassVar[str] = "launching"


@dataclass(frozen=True, kw_only=True)
class Surveying(Waiting):
    """They read the data's metadata and a sample, from which the first plan is made."""

    doing: ClassVar[str] = "surveying the data"
    reply: ClassVar[type] = protocol.Surveyed
    time_kind: ClassVar[str] = "planning"


@dataclass(frozen=True, kw_only=True)
class Preparing(Waiting):
    """They build the plan's specs, and confirm its hash."""

    doing: ClassVar[str] = "preparing the plan"
    reply: ClassVar[type] = protocol.Prepared
    time_kind: ClassVar[str] = "planning"
    plan: Plan
    holding: bool = False
    """Whether the hosts hold a state already, which stays as it is."""


@dataclass(frozen=True, kw_only=True)
class Restoring(Waiting):
    """They load a checkpoint, or initialise everything."""

    doing: ClassVar[str] = "restoring"
    reply: ClassVar[type] = protocol.Restored
    time_kind: ClassVar[str] = "restoring"
    step: int | None
    """Step of the checkpoint; None initialises."""


@dataclass(frozen=True, kw_only=True)
class Training(Waiting):
    """They run a lease."""

    doing: ClassVar[str] = "training"
    reply: ClassVar[type] = protocol.LeaseDone
    time_kind: ClassVar[str] = "training"
    lease: Lease
    braking: Literal["no", "holding", "released"] = "no"
    """Whether the hosts have been asked to hold, and then told to end the lease early."""

    @property
    def number(self) -> int | None:
        """What the hosts are asked to hold; None if it ends at once."""
        return None if self.lease.first == self.lease.last else self.lease.number


@dataclass(frozen=True, kw_only=True)
class Evaluating(Waiting):
    """They evaluate a split."""

    doing: ClassVar[str] = "evaluating"
    reply: ClassVar[type] = protocol.Evaluated
    time_kind: ClassVar[str] = "evaluating"
    split: str
    number: int | None
    """What the hosts are asked to hold: counted with the leases."""
    braking: Literal["no", "holding", "released"] = "no"
    """See ``Training``."""


@dataclass(frozen=True, kw_only=True)
class Finishing(Waiting):
    """They commit pending checkpoints and leave."""

    doing: ClassVar[str] = "finishing"
    reply: ClassVar[type] = protocol.Finished
    time_kind: ClassVar[str] = "saving"


@dataclass(frozen=True, kw_only=True)
class Recovering(State):
    """Something went wrong; at ``until`` all hosts are launched anew.

    Those that are left are ended at once, or, if their stacks are awaited, when these have come, at
    ``until`` at the latest.
    """

    doing: ClassVar[str] = "recovering"
    until: float
    """Latest time of the launch."""
    pause: float
    """Earliest time of the launch."""
    awaited: frozenset[int] = frozenset()
    """Ranks whose stacks have not come."""

    def over(self, now: float) -> bool:
        """Whether it is time to launch."""
        return now >= (self.until if self.awaited else self.pause)


@dataclass(frozen=True, kw_only=True)
class Ended(State):
    """Nothing follows, and no host is left."""

    doing: ClassVar[str] = "done"


@dataclass(frozen=True, kw_only=True)
class Finished(Ended):
    """All steps are done, evaluated and saved."""


@dataclass(frozen=True, kw_only=True)
class Interrupted(Ended):
    """The run left before its last step or its last evaluation because it was asked to."""


@dataclass(frozen=True, kw_only=True)
class Failed(Ended):
    """The run gave up."""

    error: Exception
