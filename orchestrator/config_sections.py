"""Parts of a run's settings: checkpoints, evaluation, early stopping, failures, sizes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workers.profiling import Profile

__all__ = [
    "CheckpointConfig",
    "EarlyStoppingConfig",
    "ElasticConfig",
    "EvaluationConfig",
    "FailureConfig",
    "NotNegative",
    "Positive",
    "ProfileConfig",
    "Seconds",
    "Section",
]

type Positive = Annotated[int, Field(ge=1)]
type NotNegative = Annotated[int, Field(ge=0)]
type Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """What all parts share: exact types, no unknown keys, never changed."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="constants",
    )


class CheckpointConfig(Section):
    """When checkpoints are saved and how many are kept."""

    every: Positive = 100
    """Steps between checkpoints; one more is saved at the end of the run."""
    keep: Positive = 3
    """Newest committed checkpoints that are kept; older ones are deleted, but for those below."""
    keep_every: Positive | None = None
    """Checkpoints of steps that are multiples of this are kept for ever, where one is saved."""
    keep_best: NotNegative = 0
    """Checkpoints of the best evaluations that are kept besides; if any, every state that is
    evaluated is saved."""
    best_metric: str = "auc"
    """Figure of an evaluation that tells which is best."""
    best_mode: Literal["max", "min"] = "max"
    """Whether the largest or the smallest figure is best."""


class EarlyStoppingConfig(Section):
    """When a run ends before its last step because evaluations get no better."""

    patience: NotNegative = 0
    """Evaluations in a row without a better one that end the run; 0 never does."""
    metric: str = "auc"
    """Figure of an evaluation that is watched."""
    mode: Literal["max", "min"] = "max"
    """Whether larger or smaller figures are better."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much more than this a figure must be better than the best before, to count."""


class EvaluationConfig(Section):
    """When the test split is evaluated."""

    every_epochs: NotNegative = 1
    """Epochs between evaluations; 0 evaluates only at the end of the run, which always happens."""
    every_steps: Positive | None = None
    """Steps between evaluations, besides those at ends of epochs."""
    row_norms: bool = True
    """Whether the norms of the rows of every table are counted besides, for TensorBoard and the
    report. Each device reads its tables once for it."""
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()


class ProfileConfig(Section):
    """Steps that JAX's profiler traces; see ``profile/`` in the run's folder."""

    first: NotNegative | None = None
    """First step that is traced, counted from 0 over the whole run; unset, none is. The first one
    of a launch compiles."""
    last: Positive | None = None
    """One past the last step that is traced. A trace of a few steps tells most, and stays small."""
    hosts: Annotated[list[NotNegative], Field(min_length=1)] = [0]
    """Ranks of the hosts that trace."""

    @model_validator(mode="after")
    def _steps_are_a_range(self) -> Self:
        if (self.first is None) != (self.last is None):
            raise ValueError("profile needs both first and last, or neither")
        if self.first is not None and self.last is not None and self.last <= self.first:
            raise ValueError(
                f"profile.last is {self.last}, but must be beyond profile.first, {self.first}"
            )
        return self

    def check_hosts(self, hosts: int) -> None:
        """Refuse ranks that a run of so many hosts does not have.

        Raises:
            ValueError: There is none of that rank.
        """
        beyond = [rank for rank in self.hosts if rank >= hosts]
        if self.first is not None and beyond:
            raise ValueError(
                f"profile.hosts has {beyond[0]}, but the ranks of {hosts} hosts are 0 to "
                f"{hosts - 1}"
            )

    def chosen(self) -> Profile | None:
        """As the hosts take it; None where nothing is traced."""
        if self.first is None or self.last is None:
            return None
        return Profile(self.first, self.last, tuple(self.hosts))


class FailureConfig(Section):
    """How long to wait for hosts, and how often to start them anew. All times are in seconds."""

    max_restarts: NotNegative = 8
    """Restarts in a row without a step further than before; one more failure ends the run."""
    restart_delay: Annotated[float, Field(ge=0)] = 1.0
    """Pause before the second restart in a row; it doubles with each further one, up to 30."""
    grace: Annotated[float, Field(ge=0)] = 3.0
    """Time to learn the root cause after a host reports an error that may follow from another's
    death, and to collect the stacks of hosts that hang."""
    pulse_interval: Seconds = 1.0
    """Time between two pulses of a host."""
    pulse_deadline: Seconds = 20.0
    """A host whose last pulse is older counts as frozen."""
    launch_timeout: Seconds = 120.0
    """Time for all host processes to start."""
    join_timeout: Seconds = 120.0
    """Time for all hosts to join one mesh."""
    survey_timeout: Seconds = 600.0
    """Time for all hosts to read the data's metadata and a sample."""
    prepare_timeout: Seconds = 300.0
    """Time for all hosts to build the plan's specs and their pipelines."""
    restore_timeout: Seconds = 900.0
    """Time to load a checkpoint, or to initialise tables and model."""
    lease_timeout: Seconds = 900.0
    """Time for one lease, with compilation and the start of a save."""
    evaluate_timeout: Seconds = 1800.0
    """Time for one evaluation, with compilation."""
    storage_timeout: Seconds = 60.0
    """Time for which the driver asks storage again that answers with errors; then the run ends."""
    preemption_grace: Seconds = 25.0
    """Time in which the driver saves and leaves after a SIGTERM; then it leaves without."""
    nan: Literal["stop", "skip", "rollback"] = "stop"
    """What is done about a loss or gradient that is not finite: ``stop`` ends the run with an
    error, ``skip`` leaves the state as it was before the step, ``rollback`` goes back to the last
    checkpoint and leaves the step's batch out."""
    max_skipped: NotNegative = 10
    """Steps of the run that ``nan`` may leave out; one more ends the run."""
    finish_timeout: Seconds = 900.0
    """Time to commit pending checkpoints at the end."""


class ElasticConfig(Section):
    """With how many hosts a run may go on when some are lost for good. Times are in seconds."""

    sizes: list[Positive] = []
    """Numbers of hosts, besides ``hosts``; the batch size must divide by the devices of each."""
    shrink_after: Seconds = 60.0
    """After this long without all hosts started, the largest of ``sizes`` that can be filled is
    taken."""
    grow_after: Seconds = 60.0
    """Time between two looks whether there is room for more hosts again."""
