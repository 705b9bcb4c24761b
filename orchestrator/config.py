"""Everything that can be set for a run, with its default and what it means.

The models are the single source: the help of the command line, the checks and ``config.yaml`` in
the run's folder are made from them. Load them with ``orchestrator.config_loading.load_config``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from orchestrator.config_sections import (
    CheckpointConfig,
    EarlyStoppingConfig,
    ElasticConfig,
    EvaluationConfig,
    FailureConfig,
    NotNegative,
    Positive,
    ProfileConfig,
    Seconds,
    Section,
)
from orchestrator.plain_yaml import write_yaml
from orchestrator.topology import SliceTopology, slice_topology
from workers.protocol import RunSpec

if TYPE_CHECKING:
    from workers.data.holdout import Holdout

__all__ = [
    "CheckpointConfig",
    "ClusterConfig",
    "EarlyStoppingConfig",
    "ElasticConfig",
    "EvaluationConfig",
    "FailureConfig",
    "HoldoutConfig",
    "LimitsConfig",
    "ProfileConfig",
    "RunConfig",
]


class ClusterConfig(Section):
    """Where the hosts run."""

    address: str | None = None
    """Address of a running Ray cluster (``auto`` or ``ip:port``); unset, the variable RAY_ADDRESS
    is used, which ``ray job submit`` sets, and without it a local cluster is started."""
    topology: str | None = None
    """TPU slice to run on, such as ``v5p-8``, ``v6e-16`` or ``7x-16``. It says how many hosts,
    devices and SparseCores there are and what to ask of Ray; a host process is started on every
    host of the slice, all or none."""
    slices: Positive = 1
    """Number of such slices."""
    slice_timeout: Seconds = 60.0
    """A slice that is not ours after so many seconds is given up for another one."""
    accelerator: Literal["cpu", "gpu", "tpu"] | None = None
    """Kind of machines that hosts are placed on, all or none: with ``gpu``, each takes
    ``devices_per_host`` GPUs, with ``cpu`` its ``num_cpus_per_host``; ``tpu`` is what ``topology``
    says. Unset, hosts take what is set here by hand, and are started one by one."""
    placement: Literal["SPREAD", "STRICT_SPREAD"] = "SPREAD"
    """With an ``accelerator`` gpu or cpu: ``SPREAD`` puts hosts on as many machines as it can,
    ``STRICT_SPREAD`` every host on a machine of its own."""
    num_cpus_per_host: Annotated[float, Field(ge=0)] = 0.0
    """CPUs that Ray sets aside for each host; 0 lets any number of hosts share a machine."""
    resources_per_host: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Other Ray resources of each host, for example ``{TPU: 4}`` or ``{GPU: 8}``."""
    spares: NotNegative = 0
    """Processes that have everything imported and wait to take over when hosts are started anew;
    as many as there are hosts make a recovery fastest. Each holds some hundred MB. Only for hosts
    that need no resources of Ray."""
    object_store_megabytes: Annotated[int, Field(ge=80)] = 128
    """Ray's object store of a local cluster, in MiB; only commands and replies pass through it."""

    @field_validator("topology")
    @classmethod
    def _topology_exists(cls, name: str | None) -> str | None:
        return None if name is None else slice_topology(name).name

    @model_validator(mode="after")
    def _accelerator_goes_with_the_rest(self) -> Self:
        if self.topology is not None and self.accelerator not in (None, "tpu"):
            raise ValueError(
                f"topology {self.topology} is of TPUs: leave out accelerator {self.accelerator}"
            )
        if self.accelerator == "tpu" and self.topology is None:
            raise ValueError("accelerator tpu needs topology, such as v6e-16, which says it all")
        if not self.is_gang:
            if self.placement != "SPREAD":
                raise ValueError("placement needs accelerator: set it to gpu or cpu")
            return self
        by_hand = sorted({"CPU", "GPU", "TPU"} & set(self.resources_per_host))
        if by_hand:
            raise ValueError(
                f"accelerator {self.accelerator} says what a host takes: leave {by_hand[0]} out of "
                "resources_per_host; devices_per_host counts GPUs, num_cpus_per_host CPUs"
            )
        if self.accelerator == "cpu" and not self.num_cpus_per_host:
            raise ValueError(
                "accelerator cpu needs num_cpus_per_host: the CPUs of its machine that a host takes"
            )
        if self.spares:
            raise ValueError("spares cannot hold the hosts' machines: leave out spares")
        return self

    @property
    def is_gang(self) -> bool:
        """Whether hosts are placed together on machines with GPUs or CPUs."""
        return self.topology is None and self.accelerator in ("cpu", "gpu")

    @model_validator(mode="after")
    def _topology_says_it_all(self) -> Self:
        if self.topology is None and self.slices != 1:
            raise ValueError("slices are of TPUs: say of which in cluster.topology")
        if self.topology is not None and (self.resources_per_host or self.spares):
            raise ValueError(
                "topology says what a host takes: leave out resources_per_host and spares"
            )
        return self

    @property
    def slice_topology(self) -> SliceTopology | None:
        """What the slices are made of; None where the run is not on slices."""
        return None if self.topology is None else slice_topology(self.topology, self.slices)

    @model_validator(mode="after")
    def _spares_have_no_resources(self) -> Self:
        if self.spares and (self.num_cpus_per_host or self.resources_per_host):
            raise ValueError(
                "spares cannot hold the hosts' resources: set spares to 0, or ask for no resources"
            )
        return self


class HoldoutConfig(Section):
    """Which rows are evaluated on instead of trained on, where the data has no folder ``test``."""

    by: Literal["none", "random", "time", "column"] = "none"
    """``random`` rows; rows from a moment of a column on (``time``); rows with certain values of a
    ``column``, or all rows of a share of its values. Nothing is copied."""
    column: str | None = None
    """The column of moments, numbers or values."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the rows, or of the values of the column."""
    start: int | float | str | None = None
    """With ``time``: the first moment that is held out; unset, that of the last ``share``."""
    values: list[int | float | str | bool] = Field(default=[])
    """With ``column``: rows with these values are held out."""
    seed: NotNegative = 0
    """Of the choice of rows or values."""

    def chosen(self) -> Holdout | None:
        """As the hosts take it; None where nothing is held out.

        Raises:
            DataError: Keys do not go together.
        """
        if self.by == "none":
            return None
        from workers.data.holdout import Holdout

        return Holdout(self.by, self.column, self.share, self.start, tuple(self.values), self.seed)


class LimitsConfig(Section):
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


class RunConfig(Section):
    """The configuration of a run."""

    program: str = "workers.programs.flights:program"
    """What to train: ``package.module:callable``, which returns a ``Program``."""
    parameters: dict[str, Any] = Field(default={})
    """Keyword arguments for the program's callable, for example ``parameters.embedding_dim=16``."""
    data: str | None = None
    """Folder or file of the data, readable from every host; unset, the program's own data."""
    label: str | None = None
    """Column to predict, for data without a program: the columns are understood from a sample, and
    the program made from them is written into the run's ``config.yaml``."""
    hosts: Positive = 2
    """Host processes that train together; ``cluster.topology`` says it for TPUs."""
    devices_per_host: Positive = 2
    """Devices of each host; on the cpu platform they are virtual, and ``cluster.topology`` says it
    for TPUs."""
    platform: Literal["cpu", "gpu", "tpu"] = "cpu"
    """Kind of devices; ``tpu`` where there is a ``cluster.topology``."""
    batch_size: Positive = 1024
    """Samples of a global batch, over all hosts."""
    epochs: Positive = 2
    """Passes over the training split."""
    max_steps: Positive | None = None
    """End after this many steps, if the epochs have more."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial values, the order of the data and all other random numbers."""
    lease_steps: Positive = 50
    """Most steps that hosts run before they report to the driver."""
    limits: Annotated[
        Annotated[Literal["auto"], Tag("<word>")]
        | Annotated[dict[str, LimitsConfig], Tag("<mapping>")],
        Discriminator(_limits_branch),
    ] = "auto"
    """Room for ids in each table stack: ``auto`` starts from a sample and raises the limits when a
    batch needs more; values by stack are kept, and a batch that needs more ends the run."""
    minibatching: bool = False
    """Look up a batch that needs more room in several rounds, on all hosts alike, instead of going
    back to a checkpoint with raised limits; with ``limits`` ``auto`` they are raised after the
    lease. Costs some room for row pointers."""
    drop_ids: bool = False
    """Leave out the ids that find no room, counted; without it no id is ever left out."""
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
    holdout: HoldoutConfig = HoldoutConfig()
    profile: ProfileConfig = ProfileConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    failures: FailureConfig = FailureConfig()
    elastic: ElasticConfig = ElasticConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="before")
    @classmethod
    def _shape_of_the_topology(cls, values: Any) -> Any:
        """Where a topology is given, it says what else would have to be."""
        cluster = values.get("cluster") if isinstance(values, dict) else None
        try:
            checked = ClusterConfig.model_validate(cluster or {})
        except ValueError:  # told with all other mistakes
            return values
        topology = checked.slice_topology
        if topology is None:
            kind = {"platform": checked.accelerator} if checked.is_gang else {}
            hosts = {"hosts": 1} if checked.accelerator == "gpu" else {}
            return kind | hosts | values
        told = {
            "platform": "tpu",
            "hosts": topology.hosts,
            "devices_per_host": topology.devices_per_host,
        }
        return told | values

    @model_validator(mode="after")
    def _accelerator_agrees(self) -> Self:
        if not self.cluster.is_gang:
            return self
        kind = self.cluster.accelerator
        if self.platform != kind:
            raise ValueError(
                f"platform is {self.platform}, but it is {kind} on machines of "
                f"cluster.accelerator {kind}: leave it out"
            )
        if kind == "gpu" and "devices_per_host" not in self.model_fields_set:
            raise ValueError(
                "cluster.accelerator gpu: set devices_per_host to the GPUs that a host takes, as a "
                "rule all of its machine, and hosts to the number of machines"
            )
        return self

    @model_validator(mode="after")
    def _topology_agrees(self) -> Self:
        topology = self.cluster.slice_topology
        if topology is None:
            if self.platform == "tpu":
                raise ValueError(
                    "platform tpu needs cluster.topology, such as v6e-16: it says how many hosts, "
                    "devices and SparseCores there are"
                )
            return self
        for key, told in (
            ("platform", "tpu"),
            ("hosts", topology.hosts),
            ("devices_per_host", topology.devices_per_host),
        ):
            if getattr(self, key) != told:
                raise ValueError(
                    f"{key} is {getattr(self, key)}, but it is {told} on {topology.described}: "
                    "leave it out, or set cluster.topology"
                )
        for size in self.elastic.sizes:
            if size % topology.hosts_per_slice:
                raise ValueError(
                    f"elastic.sizes has {size} hosts, but hosts come by slices of "
                    f"{topology.hosts_per_slice}"
                )
        return self

    @model_validator(mode="after")
    def _profile_agrees(self) -> Self:
        self.profile.check_hosts(self.hosts)
        return self

    @property
    def devices(self) -> int:
        """Devices of the whole mesh."""
        return self.hosts * self.devices_per_host

    def to_yaml(self, hide: Callable[[Any], Any] = lambda values: values) -> str:
        """The resolved configuration as YAML; ``load_config`` reads it back to an equal value.

        Args:
            hide: Takes out what must not be written down.
        """
        return write_yaml(hide(self.model_dump(mode="json")))

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
        if self.holdout.by != "none":
            values["holdout"] = self.holdout.model_dump(mode="json")
        return values | {"data": data} | {f"parameters.{k}": v for k, v in parameters.items()}

    def run_spec(self, data: str, run_folder: str) -> RunSpec:
        """What every host is told about the run.

        Args:
            data: The resolved path of the data.
            run_folder: Absolute path of the run's folder.
        """
        topology = self.cluster.slice_topology
        return RunSpec(
            program=self.program,
            parameters=dict(self.parameters),
            data=data,
            run_folder=run_folder,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
            devices_per_host=self.devices_per_host,
            sparsecores_per_device=topology.sparsecores_per_device if topology else 1,
            platform=self.platform,
            logical_shards=self.logical_shards,
            shuffle_window=self.shuffle_window,
            quarantine=self.quarantine,
            record_rows=self.record_rows,
            join_timeout=self.failures.join_timeout,
            non_finite=self.failures.nan,
            minibatching=self.minibatching,
            drop_ids=self.drop_ids,
            holdout=self.holdout.chosen(),
            profile=self.profile.chosen(),
        )

    @property
    def fixed_limits(self) -> Mapping[str, LimitsConfig]:
        """The limits set by hand, by table stack; empty when all are found automatically."""
        return {} if isinstance(self.limits, str) else self.limits
