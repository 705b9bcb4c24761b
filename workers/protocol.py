"""What the driver and a host say to each other.

The driver sends every host the same command and waits for all replies; a host answers one command
at a time. Beside that, a host can be asked for its pulse at any moment, also while it works.

    driver                         host
    ------                         ----
    (process starts)           →   Hello
    Join(coordinator)          →   Joined          one mesh over all hosts
    Survey()                   →   Surveyed        rows, steps, limits seen in a sample; only
                                                   where there is no plan yet
    Prepare(plan)              →   Prepared        the plan's hash, made from the host's own specs.
                                                   Again, between leases, if limits are raised: the
                                                   state stays, and the step is compiled anew
    Restore(step | None)       →   Restored
    RunLease(lease)            →   LeaseDone       … many times
    Evaluate(split, number)    →   Evaluated
    Finish()                   →   Finished        pending checkpoints are committed

All of these are plain values: they pickle, and none holds an array larger than a metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from workers.memory import MemoryUse
from workers.metrics import BinaryMetrics

if TYPE_CHECKING:
    from workers.data.holdout import Holdout
    from workers.data.index import DataIndex
    from workers.norm_histogram import NormHistogram
    from workers.profiling import Profile
    from workers.ranking_metrics import RankingMetrics

__all__ = [
    "Assignment",
    "Command",
    "Evaluate",
    "Evaluated",
    "Finish",
    "Finished",
    "Hello",
    "Join",
    "Joined",
    "Lease",
    "LeaseDone",
    "Observed",
    "Prepare",
    "Prepared",
    "Pulse",
    "Reply",
    "Restore",
    "Restored",
    "RunLease",
    "RunSpec",
    "SkippedStep",
    "Squeezed",
    "Survey",
    "Surveyed",
    "merge_observed",
]


@dataclass(frozen=True)
class RunSpec:
    """Everything a host must know that does not change while a run lasts."""

    program: str
    """Where the program is: ``package.module:callable``."""
    parameters: Mapping[str, Any]
    """Keyword arguments for the program's callable."""
    data: str
    """Folder (or file) of the data, readable from every host."""
    run_folder: str
    """Folder of the run, writable from every host."""
    batch_size: int
    """Samples per global batch."""
    epochs: int
    seed: int
    devices_per_host: int
    sparsecores_per_device: int = 1
    """As the devices have them; 1 where there are none."""
    total_steps: int = 1
    """Steps of the whole run, for learning-rate schedules."""
    platform: str = "cpu"
    logical_shards: int | None = None
    """Number of logical shards; None takes the largest divisor of the batch size up to 256."""
    shuffle_window: int = 4096
    """Rows within which a logical shard is shuffled."""
    record_rows: bool = False
    """Write the row ids of every batch to ``rows/host-<rank>.jsonl`` in the run folder."""
    quarantine: int = 0
    """Most bad rows that may be left out: see ``workers.data.quarantine``."""
    join_timeout: float = 120.0
    """Seconds a host waits for the others to join the mesh."""
    non_finite: Literal["stop", "skip", "rollback"] = "stop"
    """What a loss or gradient that is not finite does: ``skip`` leaves the state as it was before
    the step, with the other two it is an error."""
    minibatching: bool = False
    """Whether a batch beyond the limits is looked up in several rounds."""
    drop_ids: bool = False
    """Whether ids beyond the limits are left out, and counted."""
    holdout: Holdout | None = None
    """Rows to evaluate on, where the data has no ``test`` split of its own."""
    profile: Profile | None = None
    """Steps whose traces are written, and by which hosts."""
    data_index: DataIndex | None = None
    """What the run folder's index of the data leaves out; None where there is no index."""
    session: str = field(default="", repr=False)
    """Another one for each driver: what hosts keep for those that take their place is valid within
    it. A secret, by which they know that it was they who wrote it. Empty keeps nothing."""


@dataclass(frozen=True)
class Assignment:
    """The place of one host in one launch of the group."""

    rank: int
    hosts: int
    launch: int
    """Counts the launches of a run: 0 first, one more after every recovery."""


@dataclass(frozen=True)
class Hello:
    """First words of a host: who it is, and where it could hold the coordination service."""

    rank: int
    pid: int
    node: str
    """Ray node id, or the host name outside Ray."""
    address: str
    """``ip:port`` free on this host for the coordination service."""


@dataclass(frozen=True)
class Join:
    """Join the process group whose coordination service rank 0 holds at ``coordinator``."""

    coordinator: str


@dataclass(frozen=True)
class Joined:
    """The host is part of the mesh."""

    rank: int
    local_devices: int
    global_devices: int


@dataclass(frozen=True)
class Survey:
    """Read the data's metadata and a sample of batches."""


@dataclass(frozen=True)
class Observed:
    """Largest values a host has seen for one table stack."""

    max_ids_per_partition: int
    max_unique_ids_per_partition: int
    required_buffer_size_per_device: int


def merge_observed(*observed: Mapping[str, Observed]) -> dict[str, Observed]:
    """The largest values of all, stack by stack."""
    seen: dict[str, list[Observed]] = {}
    for values in observed:
        for stack, value in values.items():
            seen.setdefault(stack, []).append(value)
    return {
        stack: Observed(
            max(value.max_ids_per_partition for value in values),
            max(value.max_unique_ids_per_partition for value in values),
            max(value.required_buffer_size_per_device for value in values),
        )
        for stack, values in seen.items()
    }


@dataclass(frozen=True)
class Squeezed:
    """What was done about batches that exceeded a limit."""

    steps: int = 0
    """Batches that were looked up in several minibatches; the same on all hosts."""
    most: int = 1
    """Most minibatches of a batch; the same on all hosts."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Ids that were left out, by table stack; of one host, or of all together."""

    def then(self, later: Squeezed) -> Squeezed:
        """Both, one after the other."""
        return Squeezed(self.steps + later.steps, max(self.most, later.most), self._together(later))

    def beside(self, other: Squeezed) -> Squeezed:
        """Both, of two hosts for the same steps."""
        return Squeezed(
            max(self.steps, other.steps), max(self.most, other.most), self._together(other)
        )

    def _together(self, other: Squeezed) -> dict[str, int]:
        stacks = sorted({*self.dropped, *other.dropped})
        return {name: self.dropped.get(name, 0) + other.dropped.get(name, 0) for name in stacks}


@dataclass(frozen=True)
class Surveyed:
    """What the data and a sample of it hold."""

    rank: int
    rows: int
    """Rows of the training split, over all hosts."""
    steps_per_epoch: int
    observed: Mapping[str, Observed]
    """By table stack."""


@dataclass(frozen=True)
class Prepare:
    """Build specs, pipeline and step for this plan (its JSON)."""

    plan: str


@dataclass(frozen=True)
class Prepared:
    """The host is ready for a plan."""

    rank: int
    plan_hash: str
    """Hash of the plan as this host makes it from its own specs, with the limits it was sent."""
    data: str
    """Fingerprint of the data as this host sees it: see ``workers.planning.data_fingerprint``."""


@dataclass(frozen=True)
class Restore:
    """Load the checkpoint of ``step``, or initialise everything when ``step`` is None."""

    step: int | None


@dataclass(frozen=True)
class Restored:
    """The host holds its part of the state."""

    rank: int
    step: int
    """Steps that have been done: the next one to run is this."""


@dataclass(frozen=True)
class Lease:
    """Leave to run the steps [first, last) without asking again.

    Steps count from 0 over the whole run. With ``save`` a checkpoint of the state after step
    ``last - 1`` is started (asynchronously) at the end; ``first == last`` saves and runs nothing.
    The batches of the steps in ``skip`` are passed over: they change nothing but the step number.

    A host may be told in the middle of a lease to hold, and then to end it at an earlier step: see
    ``workers.brake``.
    """

    number: int
    plan_hash: str
    first: int
    last: int
    save: bool = False
    skip: tuple[int, ...] = ()


@dataclass(frozen=True)
class SkippedStep:
    """A step that changed nothing, as something in it was not finite."""

    step: int
    reason: str
    """What was not finite: names features and tables."""


@dataclass(frozen=True)
class RunLease:
    """Run a lease."""

    lease: Lease


@dataclass(frozen=True)
class LeaseDone:
    """What a host reports after a lease."""

    rank: int
    lease: int
    first: int
    last: int
    losses: tuple[float, ...]
    """Mean loss of every global batch, the same on all hosts; NaN for one that was passed over."""
    examples: int
    """Real samples (weight above 0) of this lease over all hosts."""
    metrics: BinaryMetrics
    """This host's share of the training metrics: merge them over hosts."""
    observed: Mapping[str, Observed]
    seconds: Mapping[str, float]
    """Wall seconds by kind: ``compiling``, ``waiting_for_data``, ``training``, ``saving``."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Busy seconds of the pipeline's stages: ``read`` (and transform), ``encode``, ``put``."""
    skipped: tuple[SkippedStep, ...] = ()
    """Steps that were left without effect, the same on all hosts."""
    squeezed: Squeezed = field(default_factory=Squeezed)
    """What was done about batches that exceeded a limit; ids of this host's share."""
    memory: MemoryUse = field(default_factory=MemoryUse)
    """Memory at the end of the lease."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the current tables and model on a split of the data, every row once.

    The hosts may be told in the middle of it to hold, and then to leave it after a step: see
    ``workers.brake``.
    """

    split: str
    number: int = -1
    """Tells it from other evaluations and leases; -1 for one that is not interrupted."""
    row_norms: bool = False
    """Whether the norms of the tables' rows are counted besides."""


@dataclass(frozen=True)
class Evaluated:
    """Every row of the split was evaluated once, or the evaluation was left before its end."""

    rank: int
    split: str
    metrics: BinaryMetrics
    """This host's share: merge them over hosts."""
    complete: bool = True
    """Whether it came to its end."""
    ranking: RankingMetrics | None = None
    """The same, if the program has a ranking."""
    squeezed: Squeezed = field(default_factory=Squeezed)
    """What was done about batches that exceeded a limit; ids of this host's share."""
    row_norms: Mapping[str, NormHistogram] = field(default_factory=dict)
    """Norms of this host's rows by table, if they were asked for: merge them over hosts."""


@dataclass(frozen=True)
class Finish:
    """Wait for pending checkpoints and leave the process group."""


@dataclass(frozen=True)
class Finished:
    """All checkpoints are committed and the process group is left."""

    rank: int
    committed: tuple[int, ...]
    """Steps of the committed checkpoints."""


@dataclass(frozen=True)
class Pulse:
    """The state of a host at one moment; answered on a thread of its own."""

    rank: int
    pid: int
    phase: str
    """``starting``, ``idle``, ``joining``, ``surveying``, ``preparing``, ``restoring``,
    ``compiling``, ``waiting_for_data``, ``training``, ``profiling``, ``saving``, ``evaluating``
    or ``finishing``."""
    phase_seconds: float
    step: int
    """Steps this host has dispatched."""
    memory_bytes: int
    """Resident memory of the process."""
    leaving: bool = False
    """Whether the process was told by its machine (SIGTERM) that it will be ended."""


type Command = Join | Survey | Prepare | Restore | RunLease | Evaluate | Finish
type Reply = Hello | Joined | Surveyed | Prepared | Restored | LeaseDone | Evaluated | Finished
