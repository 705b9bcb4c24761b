"""What the driver asks of this floor before and between launches: data, checks, plans.

Runs in the driver's process: reads metadata only, and starts no JAX backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from kernels import EmbeddingPlan, FeatureSpec, Limits, Topology, apply_plan, build_plan
from workers.data.dataset import Dataset, check_dataset, has_split, open_dataset
from workers.data.order import RowOrder, order_of
from workers.errors import DataError, ProgramError
from workers.program import Program
from workers.protocol import Observed, RunSpec

__all__ = [
    "DataSummary",
    "check_inputs",
    "make_plan",
    "order_for",
    "planned_specs",
    "resolve_data",
    "topology_of",
]

SPARSECORES_PER_DEVICE = 1
"""Partitions per device where the hardware has no SparseCores."""

LEAST = Limits(8, 8, 8)
"""Where limits start from before anything is observed."""

HEADROOM = 1.5
"""Room above what was observed: a sample sees less than a whole run."""

TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class DataSummary:
    """What the metadata of the data says."""

    rows: int
    test_rows: int
    steps_per_epoch: int
    files: int


def topology_of(run: RunSpec, hosts: int) -> Topology:
    """The cluster's shape as planning sees it."""
    return Topology(hosts, run.devices_per_host, SPARSECORES_PER_DEVICE)


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
    topology = topology_of(run, hosts)
    if run.batch_size % topology.sparsecores:
        nearest = -(-run.batch_size // topology.sparsecores) * topology.sparsecores
        raise DataError(
            f"batch_size {run.batch_size} cannot be spread over {hosts} hosts × "
            f"{run.devices_per_host} devices: it must be a multiple of {topology.sparsecores}; "
            f"the next is {nearest}"
        )
    train = open_dataset(run.data, TRAIN)
    check_dataset(train, program.schema)
    test_rows = 0
    if has_split(run.data, TEST):
        test = open_dataset(run.data, TEST)
        check_dataset(test, program.schema)
        test_rows = test.rows
    order = order_for(train, run)
    files = len({group.file for group in train.row_groups})
    return DataSummary(train.rows, test_rows, order.steps_per_epoch, files)


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
        specs, topology_of(run, hosts), batch_size=run.batch_size, version=version
    )
    if observed is None:
        return roomiest
    floor = previous.limits if previous is not None else dict.fromkeys(roomiest.limits, LEAST)
    plan = roomiest.with_limits(floor).with_raised_limits(observed, headroom=HEADROOM)
    return dataclasses.replace(plan, version=version)
