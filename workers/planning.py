"""From program, data and run to a plan: read from metadata alone, starting no JAX backend.

The driver asks for all of it before and between launches; hosts make the same from the same inputs.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from kernels import EmbeddingPlan, FeatureSpec, Limits, Topology, apply_plan, build_plan
from kernels.planning.limits import ALIGNMENT
from workers.data.dataset import Dataset
from workers.data.holdout import Holdout
from workers.data.order import RowOrder, order_of
from workers.data.sources import check_dataset, has_split, open_dataset
from workers.errors import DataError, ProgramError
from workers.program import Program
from workers.protocol import Observed, RunSpec

__all__ = [
    "TEST",
    "TRAIN",
    "DataSummary",
    "check_batch_size",
    "check_inputs",
    "data_fingerprint",
    "make_plan",
    "open_splits",
    "order_for",
    "planned_specs",
    "rebuilt",
    "resolve_data",
    "splits_of",
    "topology_of",
]

LEAST = Limits(8, 8, 8)
"""Where limits start from before anything is observed."""

HEADROOM = 1.5
"""Room above what was observed: a sample sees less than a whole run."""

SPARE_ROUNDS = 4
"""Minibatches whose partitions' alignment input buffers have room for, where limits are found
automatically and there is minibatching."""

TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class DataSummary:
    """What the metadata of the data says."""

    rows: int
    """Of the training split."""
    test_rows: int
    """0 where there is no test split."""
    steps_per_epoch: int
    files: int
    fingerprint: str
    """See ``data_fingerprint``."""
    datasets: Mapping[str, Dataset] = field(default_factory=dict, repr=False)
    """The splits by name."""


def topology_of(run: RunSpec, hosts: int) -> Topology:
    """The cluster's shape as planning sees it."""
    return Topology(hosts, run.devices_per_host, run.sparsecores_per_device)


def order_for(dataset: Dataset, run: RunSpec) -> RowOrder:
    """The order of a split's rows in this run."""
    return order_of(
        [group.rows for group in dataset.row_groups],
        batch_size=run.batch_size,
        seed=run.seed,
        logical_shards=run.logical_shards,
        shuffle_window=run.shuffle_window,
    )


def planned_specs(program: Program, plan: EmbeddingPlan) -> dict[str, FeatureSpec]:
    """The program's feature specs with a plan applied, by feature name."""
    specs = apply_plan(plan, program.feature_specs(plan.batch_size))
    return cast(dict[str, FeatureSpec], specs)


def resolve_data(program: Program, data: str | None) -> str:
    """Where the data is: as given, or the program's own, prepared if need be.

    Raises:
        ProgramError: No data is given and the program has none of its own.
    """
    if data is not None:
        return data
    if program.prepare_data is None:
        raise ProgramError(f"program '{program.name}' has no data of its own: give data=PATH")
    return str(program.prepare_data())


def check_inputs(program: Program, run: RunSpec, hosts: int) -> DataSummary:
    """Check everything that metadata can tell before anything is launched.

    Raises:
        DataError: Data missing, empty, with wrong columns, types, nulls or ids; or a batch size
            that cannot be spread over the devices.
    """
    check_batch_size(run, hosts)
    datasets = open_splits(program, run.data, run.holdout)
    for dataset in datasets.values():
        check_dataset(dataset, program.schema, values=not run.quarantine)
    train = datasets[TRAIN]
    return DataSummary(
        rows=train.rows,
        test_rows=datasets[TEST].rows if TEST in datasets else 0,
        steps_per_epoch=order_for(train, run).steps_per_epoch,
        files=len({group.file for group in train.row_groups}),
        fingerprint=data_fingerprint(datasets),
        datasets=datasets,
    )


def check_batch_size(run: RunSpec, hosts: int) -> None:
    """Check that a batch can be spread over so many hosts.

    Raises:
        DataError: The batch size is no multiple of their SparseCores.
    """
    topology = topology_of(run, hosts)
    if run.batch_size % topology.sparsecores:
        nearest = -(-run.batch_size // topology.sparsecores) * topology.sparsecores
        raise DataError(
            f"batch_size {run.batch_size} cannot be spread over {hosts} hosts × "
            f"{run.devices_per_host} devices: it must be a multiple of {topology.sparsecores}; "
            f"the next is {nearest}"
        )


def open_splits(program: Program, data: str, holdout: Holdout | None = None) -> dict[str, Dataset]:
    """The splits the data has, by name; there is always a ``train``.

    Raises:
        DataError: Data missing, empty, unreadable, or with types that differ between files.
    """
    return {
        split: open_dataset(data, split, program.schema.columns, holdout)
        for split in splits_of(data, holdout)
    }


def splits_of(data: str, holdout: Holdout | None = None) -> tuple[str, ...]:
    """Names of the splits to use: ``train``, and ``test`` where there is one."""
    return (TRAIN, TEST) if has_split(data, TEST, holdout) else (TRAIN,)


def data_fingerprint(datasets: Mapping[str, Dataset]) -> str:
    """16 hexadecimal digits that change when files or their rows do: the order depends on them.

    Covers the names of the files below their folder and the rows of their row groups, not values.
    """
    told = [
        (split, group.name or str(group.file), group.index, group.rows)
        for split, dataset in sorted(datasets.items())
        for group in dataset.row_groups
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def make_plan(
    program: Program,
    run: RunSpec,
    hosts: int,
    observed: Mapping[str, Observed] | None,
    previous: EmbeddingPlan | None,
    version: int,
) -> EmbeddingPlan:
    """A plan for these hosts, with room for what was observed.

    Args:
        program: What is trained.
        run: The run.
        hosts: Number of hosts.
        observed: Largest values seen by stack, over all hosts; None gives the limits no batch can
            exceed.
        previous: The plan so far; its limits are never lowered.
        version: Number of the new plan.
    """
    specs = program.feature_specs(run.batch_size)
    roomiest = build_plan(
        specs,
        topology_of(run, hosts),
        batch_size=run.batch_size,
        version=version,
        minibatching=run.minibatching,
    )
    if observed is None:
        return roomiest
    if run.minibatching:
        observed = {name: _with_spare_rounds(seen, roomiest) for name, seen in observed.items()}
    floor = previous.limits if previous is not None else dict.fromkeys(roomiest.limits, LEAST)
    plan = roomiest.with_limits(floor).with_raised_limits(observed, headroom=HEADROOM)
    return dataclasses.replace(plan, version=version)


def _with_spare_rounds(observed: Observed, plan: EmbeddingPlan) -> Observed:
    """What a batch needs if it is cut: every partition of every minibatch is aligned."""
    topology = plan.topology
    partitions = topology.sparsecores * topology.sparsecores_per_device
    needed = observed.required_buffer_size_per_device
    return dataclasses.replace(
        observed,
        required_buffer_size_per_device=needed + (SPARE_ROUNDS - 1) * ALIGNMENT * partitions,
    )


def rebuilt(program: Program, run: RunSpec, hosts: int, plan: EmbeddingPlan) -> EmbeddingPlan:
    """The plan as these inputs give it, with the limits of the one given.

    Equal to it in its hash exactly when both were made from the same program, run and cluster.
    """
    own = make_plan(program, run, hosts, None, None, plan.version)
    if own.limits.keys() != plan.limits.keys():
        return own
    return dataclasses.replace(own.with_limits(plan.limits), version=plan.version)
