"""What happens in a run, as values.

The controller records events in a ``Journal``; sinks make of them the run folder's files, the lines
on the console and TensorBoard's curves. ``events.jsonl`` holds one JSON object a line: ``time``
(Unix seconds), ``kind`` and the event's fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from orchestrator.journal import UNLOGGED, Event, Journal, Sink, as_record
from orchestrator.plan_events import PlanConfirmed, PlanMade, Replanned, Squeezed, Surveyed
from workers import protocol
from workers.norm_histogram import NormHistogram

__all__ = [
    "CheckpointPostponed",
    "CheckpointSkipped",
    "CheckpointStarted",
    "Diagnosed",
    "Evaluated",
    "EvaluationCut",
    "Event",
    "Failed",
    "Finished",
    "HandingOver",
    "HostDied",
    "HostFrozen",
    "HostLate",
    "HostRaised",
    "HostStarted",
    "Interrupted",
    "Journal",
    "Launching",
    "LeaseCut",
    "LeaseDone",
    "MeshJoined",
    "PlanConfirmed",
    "PlanMade",
    "Recovering",
    "Replanned",
    "Restored",
    "Restoring",
    "RowNorms",
    "RunStarted",
    "Shrunk",
    "Sink",
    "Squeezed",
    "StacksDumped",
    "StepSkipped",
    "StepsUnrecorded",
    "StopRequested",
    "Surveyed",
    "as_record",
]


@dataclass(frozen=True)
class RunStarted(Event):
    """The driver starts, or goes on with, a run."""

    kind: ClassVar[str] = "run_started"
    run_folder: str
    program: str
    hosts: int
    devices: int
    steps_per_epoch: int
    total_steps: int
    elapsed: float = 0.0
    """Seconds the driver had spent before, on checking its input."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Machine and versions: see ``orchestrator.environment``."""


@dataclass(frozen=True)
class Launching(Event):
    """Host processes are being started."""

    kind: ClassVar[str] = "launching"
    launch: int
    hosts: int


@dataclass(frozen=True)
class HostStarted(Event):
    """A host process has said hello."""

    kind: ClassVar[str] = "host_started"
    rank: int
    pid: int
    node: str
    launch: int


@dataclass(frozen=True)
class MeshJoined(Event):
    """All hosts are in one mesh."""

    kind: ClassVar[str] = "mesh_joined"
    launch: int
    hosts: int
    devices: int


@dataclass(frozen=True)
class Restoring(Event):
    """The hosts were told to load a checkpoint, or to initialise (None)."""

    kind: ClassVar[str] = "restoring"
    step: int | None


@dataclass(frozen=True)
class Restored(Event):
    """The hosts hold the state of this step; whatever was recorded beyond it counts no more."""

    kind: ClassVar[str] = "restored"
    step: int


@dataclass(frozen=True)
class StepsUnrecorded(Event):
    """The checkpoint that is restored holds the steps [first, last), but their losses are lost.

    The driver died before it heard of them, and there is no older checkpoint to run them again.
    """

    kind: ClassVar[str] = "steps_unrecorded"
    first: int
    last: int


@dataclass(frozen=True)
class LeaseDone(Event):
    """The steps [first, last) are done on all hosts."""

    kind: ClassVar[str] = "lease_done"
    launch: int
    lease: int
    first: int
    last: int
    loss: float | None
    """Mean over the lease's steps; None for a lease that only saves."""
    examples: int
    elapsed: float
    """Wall seconds, seen from the driver."""
    seconds: Mapping[str, float]
    """By kind, averaged over hosts."""
    stages: Mapping[str, float]
    """Busy seconds of the pipeline's stages, averaged over hosts."""
    losses: Sequence[float] = field(metadata=UNLOGGED)
    """Loss of each step."""
    steps_per_epoch: int = field(metadata=UNLOGGED)
    replies: Sequence[protocol.LeaseDone] = field(default=(), metadata=UNLOGGED)
    """What each host reported."""


@dataclass(frozen=True)
class CheckpointStarted(Event):
    """The hosts have started to save the state of this step; it is committed later, or never."""

    kind: ClassVar[str] = "checkpoint_started"
    step: int


@dataclass(frozen=True)
class CheckpointPostponed(Event):
    """The state of this step is not saved, as there is no room; the next one may be."""

    kind: ClassVar[str] = "checkpoint_postponed"
    step: int
    reason: str


@dataclass(frozen=True)
class CheckpointSkipped(Event):
    """The checkpoint of this step could not be restored and is set aside; an older one is tried."""

    kind: ClassVar[str] = "checkpoint_skipped"
    step: int
    reason: str


@dataclass(frozen=True)
class Evaluated(Event):
    """A split was evaluated with the state of this step."""

    kind: ClassVar[str] = "evaluated"
    step: int
    epoch: int
    """Passes over the data that were complete."""
    split: str
    metrics: Mapping[str, float]
    elapsed: float


@dataclass(frozen=True)
class RowNorms(Event):
    """The norms of all tables' rows were counted, in the state of this step."""

    kind: ClassVar[str] = "row_norms"
    step: int
    tables: Mapping[str, NormHistogram]


@dataclass(frozen=True)
class Diagnosed(Event):
    """Something is wrong with the cluster: see ``orchestrator.doctor``."""

    kind: ClassVar[str] = "diagnosed"
    check: str
    severity: str
    nodes: tuple[str, ...]
    what: str
    remedy: str


@dataclass(frozen=True)
class HostDied(Event):
    """The process of a host is gone."""

    kind: ClassVar[str] = "host_died"
    rank: int
    pid: int | None
    launch: int
    reason: str


@dataclass(frozen=True)
class HostFrozen(Event):
    """The pulse of a host has stopped."""

    kind: ClassVar[str] = "host_frozen"
    rank: int
    pid: int | None
    launch: int
    pulse_age: float


@dataclass(frozen=True)
class HostLate(Event):
    """A host with a fresh pulse did not finish in time."""

    kind: ClassVar[str] = "host_late"
    rank: int
    pid: int | None
    launch: int
    phase: str | None
    step: int | None


@dataclass(frozen=True)
class HostRaised(Event):
    """A host's command ended with an error."""

    kind: ClassVar[str] = "host_raised"
    rank: int
    pid: int | None
    launch: int
    error: str
    traceback: str


@dataclass(frozen=True)
class StacksDumped(Event):
    """The stacks of a host that hangs, or waits for one that does."""

    kind: ClassVar[str] = "stacks_dumped"
    rank: int
    launch: int
    text: str = field(metadata=UNLOGGED)


@dataclass(frozen=True)
class Recovering(Event):
    """All hosts are ended, to start anew from the last checkpoint."""

    kind: ClassVar[str] = "recovering"
    cause: str
    culprits: Sequence[int]
    """Ranks."""
    reason: str
    step: int
    """Steps that were done when it happened."""
    restarts_in_a_row: int


@dataclass(frozen=True)
class StepSkipped(Event):
    """A step has no effect on tables and model, as something in it was not finite."""

    kind: ClassVar[str] = "step_skipped"
    step: int
    reason: str
    policy: str
    """``failures.nan``."""


@dataclass(frozen=True)
class LeaseCut(Event):
    """All hosts end a lease at an earlier step than it was given for."""

    kind: ClassVar[str] = "lease_cut"
    lease: int
    planned: int
    last: int


@dataclass(frozen=True)
class EvaluationCut(Event):
    """All hosts have left an evaluation before its end; it is done again if the run goes on."""

    kind: ClassVar[str] = "evaluation_cut"
    step: int
    split: str


@dataclass(frozen=True)
class HandingOver(Event):
    """The hosts are to save and end, and others to take over."""

    kind: ClassVar[str] = "handing_over"
    reason: str
    """``preempted``, ``resize`` or ``room``."""
    culprits: Sequence[int]
    """Ranks of the hosts that are told to leave."""
    hosts: int
    """How many will take over."""


@dataclass(frozen=True)
class Shrunk(Event):
    """Hosts did not start in time; the run goes on with fewer."""

    kind: ClassVar[str] = "shrunk"
    hosts: int
    missing: Sequence[int]
    """Ranks that did not start."""


@dataclass(frozen=True)
class StopRequested(Event):
    """The run was asked to save and leave."""

    kind: ClassVar[str] = "stop_requested"


@dataclass(frozen=True)
class Finished(Event):
    """All steps are done, evaluated and saved."""

    kind: ClassVar[str] = "finished"
    steps: int


@dataclass(frozen=True)
class Interrupted(Event):
    """The run left early because it was asked to."""

    kind: ClassVar[str] = "interrupted"
    steps: int


@dataclass(frozen=True)
class Failed(Event):
    """The run gave up."""

    kind: ClassVar[str] = "failed"
    error_type: str
    error: str
    steps: int
    last_words: Mapping[int, str]
