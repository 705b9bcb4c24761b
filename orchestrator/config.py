"""Everything that can be set for a run, with its default and what it means.

The models are the single source: the help of the command line, the checks and ``config.yaml`` in
the run's folder are made from them. Load them with ``orchestrator.config_loading.load_config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from orchestrator.plain_yaml import write_yaml
from workers.protocol import RunSpec

__all__ = [
    "CheckpointConfig",
    "ClusterConfig",
    "EarlyStoppingConfig",
    "ElasticConfig",
    "EvaluationConfig",
    "FailureConfig",
    "LimitsConfig",
    "RunConfig",
]

type Positive = Annotated[int, Field(ge=1)]
type NotNegative = Annotated[int, Field(ge=0)]
type Seconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="constants",
    )


class CheckpointConfig(_Section):
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


class EarlyStoppingConfig(_Section):
    """When a run ends before its last step because evaluations get no better."""

    patience: NotNegative = 0
    """Evaluations in a row without a better one that end the run; 0 never does."""
    metric: str = "auc"
    """Figure of an evaluation that is watched."""
    mode: Literal["max", "min"] = "max"
    """Whether larger or smaller figures are better."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much more than this a figure must be better than the best before, to count."""


class EvaluationConfig(_Section):
    """When the test split is evaluated."""

    every_epochs: NotNegative = 1
    """Epochs between evaluations; 0 evaluates only at the end of the run, which always happens."""
    every_steps: Positive | None = None
    """Steps between evaluations, besides those at ends of epochs."""
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()


class FailureConfig(_Section):
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


class ElasticConfig(_Section):
    """With how many hosts a run may go on when some are lost for good. Times are in seconds."""

    sizes: list[Positive] = []
    """Numbers of hosts, besides ``hosts``; the batch size must divide by the devices of each."""
    shrink_after: Seconds = 60.0
    """After this long without all hosts started, the largest of ``sizes`` that can be filled is
    taken."""
    grow_after: Seconds = 60.0
    """Time between two looks whether there is room for more hosts again."""


class ClusterConfig(_Section):
    """Where the hosts run."""

    address: str | None = None
    """Address of a running Ray cluster (``auto`` or ``ip:port``); unset, the variable RAY_ADDRESS
    is used, which ``ray job submit`` sets, and without it a local cluster is started."""
    num_cpus_per_host: Annotated[float, Field(ge=0)] = 0.0
    """CPUs that Ray sets aside for each host; 0 lets any number of hosts share a machine."""
    resources_per_host: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Other Ray resources of each host, for example ``{TPU: 4}`` or ``{GPU: 8}``."""
    spares: NotNegative = 0
    """Processes that have everything imported and wait to take over when hosts are started anew;
    as many as there are hosts make a recovery fastest. Each holds some hundred MB. Only for hosts
    that need no resources of Ray."""
    object_store_megabytes: Annotated[int, Field(ge=80)] = 128
    """Ray's object store of a local cluster, in MiB; only commands and replies pass through it."""

    @model_validator(mode="after")
    def _spares_have_no_resources(self) -> Self:
        if self.spares and (self.num_cpus_per_host or self.resources_per_host):
            raise ValueError(
                "spares cannot hold the hosts' resources: set spares to 0, or ask for no resources"
            )
        return self


class LimitsConfig(_Section):
    """Limits of one table stack that the user sets by hand."""

    max_ids_per_partition: Positive
    """Largest number of ids of one sample partition that fall to one table partition."""
    max_unique_ids_per_partition: Positive
    """The same, counting each id once."""
    buffer_size_per_device: Positive
    """Entries in the input buffer of one device, over all its SparseCores."""


def _limits_branch(value: Any) -> str:
    """Which form of ``limits`` was meant, so that an error speaks of that form alone."""
    return "<word>" if isinstance(value, str) else "<mapping>"


class RunConfig(_Section):
    """The configuration of a run."""

    program: str = "workers.programs.flights:program"
    """What to train: ``package.module:callable``, which returns a ``Program``."""
    parameters: dict[str, Any] = {}
    """Keyword arguments for the program's callable, for example ``parameters.embedding_dim=16``."""
    data: str | None = None
    """Folder or file of the data, readable from every host; unset, the program's own data."""
    hosts: Positive = 2
    """Host processes that train together."""
    devices_per_host: Positive = 2
    """Devices of each host; on the cpu platform they are virtual."""
    platform: Literal["cpu", "gpu", "tpu"] = "cpu"
    """Kind of devices."""
    batch_size: Positive = 1024
    """Samples of a global batch, over all hosts."""
    epochs: Positive = 2
    """Passes over the training split."""
    max_steps: Positive | None = None
    """End after this many steps, if the epochs have more."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial values, the order of the data and all other random numbers."""
    lease_steps: Positive = 25
    """Most steps that hosts run before they report to the driver."""
    limits: Annotated[
        Annotated[Literal["auto"], Tag("<word>")]
        | Annotated[dict[str, LimitsConfig], Tag("<mapping>")],
        Discriminator(_limits_branch),
    ] = "auto"
    """Room for ids in each table stack: ``auto`` starts from a sample and raises the limits when a
    batch needs more; values by stack are kept, and a batch that needs more ends the run."""
    logical_shards: Positive | None = None
    """Shards the rows are cut into, whatever the number of hosts; unset, the largest divisor of the
    batch size up to 256."""
    shuffle_window: Positive = 4096
    """Rows within which a logical shard is shuffled."""
    quarantine: NotNegative = 0
    """Most rows of the data that may be left out because they cannot be read or used; each is
    written to ``quarantine/`` in the run's folder. One more ends the run."""
    record_rows: bool = False
    """Write the row ids of every batch to ``rows/`` in the run's folder."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    failures: FailureConfig = FailureConfig()
    elastic: ElasticConfig = ElasticConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def devices(self) -> int:
        """Devices of the whole mesh."""
        return self.hosts * self.devices_per_host

    def to_yaml(self) -> str:
        """The resolved configuration as YAML; ``load_config`` reads it back to an equal value."""
        return write_yaml(self.model_dump(mode="json"))

    def identity(self, data: str) -> dict[str, Any]:
        """The part that must stay the same when a run is resumed, flat, as JSON values.

        Hosts and devices are no part of it: neither the order of the data nor the checkpoints
        depend on them.

        Args:
            data: The resolved path of the data.
        """
        values = self.model_dump(
            mode="json",
            include={
                "program",
                "parameters",
                "batch_size",
                "seed",
                "logical_shards",
                "shuffle_window",
            },
        )
        parameters = values.pop("parameters")
        return values | {"data": data} | {f"parameters.{k}": v for k, v in parameters.items()}

    def run_spec(self, data: str, run_folder: str) -> RunSpec:
        """What every host is told about the run.

        Args:
            data: The resolved path of the data.
            run_folder: Absolute path of the run's folder.
        """
        return RunSpec(
            program=self.program,
            parameters=dict(self.parameters),
            data=data,
            run_folder=run_folder,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
            devices_per_host=self.devices_per_host,
            platform=self.platform,
            logical_shards=self.logical_shards,
            shuffle_window=self.shuffle_window,
            quarantine=self.quarantine,
            record_rows=self.record_rows,
            join_timeout=self.failures.join_timeout,
            non_finite=self.failures.nan,
        )

    @property
    def fixed_limits(self) -> Mapping[str, LimitsConfig]:
        """The limits set by hand, by table stack; empty when all are found automatically."""
        return {} if isinstance(self.limits, str) else self.limits
