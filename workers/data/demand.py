"""What batches ask of the tables: a survey as hosts make it, with who asks whom for how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from kernels import EmbeddingPlan, Topology
from kernels.planning.traffic import StackDemand
from kernels.preprocessing.asked_rows import AskedRows, asked_rows
from kernels.preprocessing.encoded import ProcessShape
from workers.batches import RawBatch, encode, raw_batches
from workers.data.reader import ExampleReader
from workers.data.sources import open_dataset
from workers.planning import TRAIN, make_plan, order_for, planned_specs, splits_of
from workers.program import Program
from workers.protocol import Observed, RunSpec, merge_observed

__all__ = ["SURVEYED_BATCHES", "DataSurvey", "DemandCounts", "survey_data"]

SURVEYED_BATCHES = 8
"""As many as ``workers.host`` surveys before the first plan."""


@dataclass(frozen=True, eq=False)
class DataSurvey:
    """What the first batches of a run ask for."""

    observed: Mapping[str, Observed]
    """Largest values by table stack, of all splits: what the first plan's limits are made from."""
    demand: Mapping[str, StackDemand]
    """By table stack, the mean of the training batches."""
    batches: int
    """Training batches that were looked at."""


def survey_data(
    program: Program,
    run: RunSpec,
    hosts: int,
    *,
    batches: int = SURVEYED_BATCHES,
    devices_per_chip: int = 1,
) -> DataSurvey:
    """Look at the first batches of a run, all hosts' shares of them; without hosts.

    Args:
        program: What would be trained.
        run: The run, with its data and batch size.
        hosts: Hosts it would have.
        batches: Batches to look at, of every split.
        devices_per_chip: Devices that have a chip in common: between them nothing is sent.

    Raises:
        DataError: The data cannot be read, or a value not used.
    """
    run = replace(run, minibatching=False)  # nothing exceeds these limits
    plan = make_plan(program, run, hosts, None, None, 0)
    specs = planned_specs(program, plan)
    observed: dict[str, Observed] = {}
    counts = {stack.name: DemandCounts(plan.topology, devices_per_chip) for stack in plan.stacks}
    seen = 0
    for split in splits_of(run.data, run.holdout):
        dataset = open_dataset(run.data, split, program.schema.columns, run.holdout)
        order = order_for(dataset, run)
        reader = ExampleReader(dataset, program.schema)
        last = min(batches, order.steps_per_epoch)
        for batch in raw_batches(order, reader, (0, run.batch_size), 0, last):
            asked: dict[str, list[AskedRows]] = {name: [] for name in counts}
            for share in _shares(batch, hosts):
                encoded = encode(share, specs, plan)
                observed = merge_observed(observed, encoded.observed)
                if split == TRAIN:
                    for name, rows in asked.items():
                        rows.append(asked_rows(encoded.inputs, name, _shape(plan)))
            if split == TRAIN:
                seen += 1
                for name, rows in asked.items():
                    counts[name].add(rows)
    return DataSurvey(observed, {name: made.mean(seen) for name, made in counts.items()}, seen)


def _shares(batch: RawBatch, hosts: int) -> Iterable[RawBatch]:
    """A global batch as the hosts have it."""
    share = len(batch.rows) // hosts
    for first in range(0, share * hosts, share):
        last = first + share
        yield RawBatch(
            batch.step,
            batch.rows[first:last],
            batch.examples.slice(first, last),
            batch.global_examples,
        )


def _shape(plan: EmbeddingPlan) -> ProcessShape:
    topology = plan.topology
    return ProcessShape(
        topology.devices_per_host, topology.devices, topology.sparsecores_per_device
    )


class DemandCounts:
    """Adds up what batches ask of one stack.

    Args:
        topology: The mesh.
        devices_per_chip: Devices that have a chip in common.
    """

    def __init__(self, topology: Topology, devices_per_chip: int = 1) -> None:
        self._topology, self._together = topology, devices_per_chip
        self._by_device = np.zeros((4, topology.devices))
        self._by_core = np.zeros((2, topology.sparsecores))
        self._off_host = 0.0

    def add(self, hosts: list[AskedRows]) -> None:
        """One batch, as every host asks for it."""
        entries, asked, asked_elsewhere, answered_elsewhere = self._by_device
        answered, different = self._by_core
        per_device, local = self._topology.sparsecores_per_device, self._topology.devices_per_host
        for rank, one in enumerate(hosts):
            first = rank * local
            own = slice(first, first + local)
            rows = one.rows.reshape(local, -1, per_device).sum(axis=2)  # [local devices, D]
            entries[own] += one.entries
            asked[own] += rows.sum(axis=1)
            answered += one.rows.sum(axis=0)
            self._off_host += rows.sum() - rows[:, own].sum()
            # Devices are numbered chip by chip.
            chips = np.arange(self._topology.devices) // self._together
            here = chips[None, :] == chips[own][:, None]
            asked_elsewhere[own] += np.where(here, 0, rows).sum(axis=1)
            answered_elsewhere += np.where(here, 0, rows).sum(axis=0)
        keys = np.unique(np.concatenate([one.different for one in hosts]))
        different += np.bincount(keys >> 32, minlength=self._topology.sparsecores)

    def mean(self, batches: int) -> StackDemand:
        """Of one batch."""
        entries, asked, asked_elsewhere, answered_elsewhere = self._by_device / batches
        answered, different = self._by_core / batches
        return StackDemand(
            entries=entries,
            asked=asked,
            answered=answered,
            different=different,
            asked_elsewhere=asked_elsewhere,
            answered_elsewhere=answered_elsewhere,
            off_host=self._off_host / batches,
        )
