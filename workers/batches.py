"""Batches of one split as one host trains or evaluates on them.

    read → transform        pick                       encode                       put
    row groups, ahead  →  examples of a batch  →  CSR-wrapped COO buffers  →  device arrays

The stages run ahead of training: see ``workers.pipeline`` for the last two, and
``workers.data.reader`` for those before. A host holds the reader's cache (``CACHE_BYTES``), the
examples of ``CHUNK_STEPS`` steps twice, and nine batches in and between the stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from kernels import (
    EmbeddingPlan,
    FeatureSpec,
    PreprocessedInput,
    SparseDenseMatmulInputStats,
    preprocess_sparse_dense_matmul_input,
)
from workers.data.examples import Examples
from workers.data.order import RowOrder
from workers.data.reader import ExampleReader
from workers.mesh import spread
from workers.pipeline import Pipeline
from workers.protocol import Observed
from workers.training import DeviceBatch

__all__ = [
    "BatchSource",
    "EncodedBatch",
    "RawBatch",
    "ReadyBatch",
    "encode",
    "observe",
    "raw_batches",
    "slots_of",
]


CHUNK_STEPS = 8
"""Steps whose rows are fetched together: row groups are visited once for all of them."""


@dataclass(frozen=True)
class RawBatch:
    """One host's share of one global batch, before encoding.

    Attributes:
        step: Step of the run.
        rows: Row ids, int64 ``[slots]``.
        examples: The examples in the same order.
        global_examples: Real samples of the global batch, over all hosts.
    """

    step: int
    rows: np.ndarray
    examples: Examples
    global_examples: int


def slots_of(order: RowOrder, rank: int, hosts: int) -> tuple[int, int]:
    """The slots [first, last) of every global batch that are a host's."""
    share = order.batch_size // hosts
    return rank * share, (rank + 1) * share


def raw_batches(
    order: RowOrder, reader: ExampleReader, slots: tuple[int, int], first: int, last: int
) -> Iterator[RawBatch]:
    """This host's share of the steps [first, last) of a run.

    While the steps of one chunk are handed out, the row groups of the next are read.

    Args:
        order: Order of the rows.
        reader: Takes examples by row id.
        slots: Slots of the global batch that are this host's.
        first: First step of the run.
        last: One past the last.
    """
    width = slots[1] - slots[0]
    chunks = _chunks(order, slots, first, last)
    following = next(chunks, None)
    try:
        while following is not None:
            (step, rows), following = following, next(chunks, None)
            reader.announce(rows, *(() if following is None else (following[1],)))
            examples = reader.take(rows.ravel())
            for index in range(len(rows)):
                share = examples.slice(index * width, (index + 1) * width)
                real = order.examples_of(order.position(step + index)[1])
                yield RawBatch(step + index, rows[index], share, real)
    finally:
        reader.forget()


def _chunks(
    order: RowOrder, slots: tuple[int, int], first: int, last: int
) -> Iterator[tuple[int, np.ndarray]]:
    """First step and row ids, int64 ``[steps, slots]``, of steps that are fetched together."""
    step = first
    while step < last:
        epoch, begin = order.position(step)
        end = min(begin + CHUNK_STEPS, order.steps_per_epoch, begin + last - step)
        yield step, order.batches(epoch, begin, end, slots)
        step += end - begin


class _TimedBatches:
    """``raw_batches`` for a pipeline: the reader counts where the time goes."""

    def __init__(self, batches: Iterator[RawBatch], reader: ExampleReader) -> None:
        self._batches, self._reader = batches, reader
        reader.take_seconds()

    def __next__(self) -> RawBatch:
        return next(self._batches)

    def take_seconds(self) -> dict[str, float]:
        return self._reader.take_seconds()

    def close(self) -> None:
        self._reader.forget()


@dataclass(frozen=True)
class EncodedBatch:
    """A host's share of a batch with its ids in the buffers the lookup reads."""

    raw: RawBatch
    inputs: PreprocessedInput
    observed: Mapping[str, Observed]


@dataclass(frozen=True)
class ReadyBatch:
    """A global batch on the devices.

    Attributes:
        step: Step of the run.
        rows: Row ids of this host's share, int64 ``[slots]``.
        global_examples: Real samples of the batch over all hosts.
        observed: Largest values this host saw, by table stack.
        batch: The arrays.
    """

    step: int
    rows: np.ndarray
    global_examples: int
    observed: Mapping[str, Observed]
    batch: DeviceBatch


def encode(raw: RawBatch, specs: Mapping[str, FeatureSpec], plan: EmbeddingPlan) -> EncodedBatch:
    """Preprocess a host's share of a batch.

    Raises:
        LimitsExceeded: The batch does not fit into the plan's limits.
    """
    inputs, statistics = preprocess_sparse_dense_matmul_input(
        dict(raw.examples.ids),
        None,
        dict(specs),
        plan.topology.devices_per_host,
        plan.topology.devices,
        num_sc_per_device=plan.topology.sparsecores_per_device,
    )
    return EncodedBatch(raw, inputs, observe(statistics, plan))


def observe(statistics: SparseDenseMatmulInputStats, plan: EmbeddingPlan) -> dict[str, Observed]:
    """The largest values of a batch's statistics, by table stack."""
    sparsecores = plan.topology.sparsecores_per_device
    return {
        stack: Observed(
            int(np.max(statistics.max_ids_per_partition[stack])),
            int(np.max(statistics.max_unique_ids_per_partition[stack])),
            int(np.max(statistics.required_buffer_size_per_sc[stack])) * sparsecores,
        )
        for stack in statistics.max_ids_per_partition
    }


class BatchSource:
    """Makes a host's batches of one split, from any step on.

    Args:
        order: Order of the split's rows.
        reader: Takes examples by row id.
        rank: This host's number.
        plan: The plan.
        specs: Feature specs with the plan applied.
        mesh: All devices.
    """

    def __init__(
        self,
        order: RowOrder,
        reader: ExampleReader,
        rank: int,
        plan: EmbeddingPlan,
        specs: Mapping[str, FeatureSpec],
        mesh: Mesh,
    ) -> None:
        self._order, self._reader = order, reader
        self._slots = slots_of(order, rank, plan.topology.hosts)
        self._plan, self._specs, self._mesh = plan, specs, mesh

    def start(self, first: int, last: int) -> Pipeline:
        """Begin to make the batches of the steps [first, last): iterate over ``ReadyBatch``."""
        raw = raw_batches(self._order, self._reader, self._slots, first, last)
        return Pipeline(
            _TimedBatches(raw, self._reader),
            [
                ("encode", lambda batch: encode(batch, self._specs, self._plan)),
                ("put", self._put),
            ],
        )

    def _put(self, encoded: EncodedBatch) -> ReadyBatch:
        raw, examples = encoded.raw, encoded.raw.examples
        layout = spread(self._mesh)

        def put(array: Any) -> jax.Array:
            return jax.make_array_from_process_local_data(layout, np.asarray(array))

        on_host = (encoded.inputs, examples.dense, examples.labels, examples.weights)
        return ReadyBatch(
            raw.step,
            raw.rows,
            raw.global_examples,
            encoded.observed,
            DeviceBatch(*jax.tree.map(put, on_host)),
        )
