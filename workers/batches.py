"""Batches of one split as one host trains or evaluates on them.

    read → transform        pick                       encode                       put
    row groups, ahead  →  examples of a batch  →  CSR-wrapped COO buffers  →  device arrays

The stages run ahead of training: see ``workers.pipeline`` for the last two, and
``workers.data.reader`` for those before. A host holds the reader's cache (``CACHE_BYTES``), the
examples of ``CHUNK_STEPS`` steps twice, and nine batches in and between the stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from kernels import EmbeddingPlan, FeatureSpec
from workers.agreed_batches import AgreedBatches
from workers.data.examples import Examples
from workers.data.order import Order
from workers.data.reader import ExampleReader
from workers.encoding import EncodedBatch, encode, observe
from workers.mesh import spread
from workers.phases import Phases
from workers.pipeline import Pipeline
from workers.protocol import Observed, Squeezed
from workers.training import DeviceBatch

__all__ = [
    "CHUNK_STEPS",
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


def slots_of(order: Order, rank: int, hosts: int) -> tuple[int, int]:
    """The slots [first, last) of every global batch that are a host's."""
    share = order.batch_size // hosts
    return rank * share, (rank + 1) * share


def raw_batches(
    order: Order, reader: ExampleReader, slots: tuple[int, int], first: int, last: int
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
    order: Order, slots: tuple[int, int], first: int, last: int
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
class ReadyBatch:
    """A global batch on the devices.

    Attributes:
        step: Step of the run.
        rows: Row ids of this host's share, int64 ``[slots]``.
        global_examples: Real samples of the batch over all hosts.
        observed: Largest values this host saw, by table stack.
        batch: The arrays.
        cuts: Where this host's share was cut into minibatches.
        squeezed: What was done where it exceeds the limits.
        raw: This host's share, to be encoded again with other cuts; None without minibatching.
    """

    step: int
    rows: np.ndarray
    global_examples: int
    observed: Mapping[str, Observed]
    batch: DeviceBatch
    cuts: int = 0
    squeezed: Squeezed = field(default_factory=Squeezed)
    raw: RawBatch | None = None

    def carrying(self, riding: jax.Array) -> ReadyBatch:
        """The same, with cuts of a later batch that ride along in its step."""
        return replace(self, batch=self.batch._replace(riding=riding))


class BatchSource:
    """Makes a host's batches of one split, from any step on.

    Args:
        order: Order of the split's rows.
        reader: Takes examples by row id.
        rank: This host's number.
        plan: The plan.
        specs: Feature specs with the plan applied.
        mesh: All devices.
        phases: Told when other hosts are waited for; None tells nobody.
        drop_ids: Whether ids beyond the limits are left out.
    """

    def __init__(
        self,
        order: Order,
        reader: ExampleReader,
        rank: int,
        plan: EmbeddingPlan,
        specs: Mapping[str, FeatureSpec],
        mesh: Mesh,
        phases: Phases | None = None,
        *,
        drop_ids: bool = False,
    ) -> None:
        self._order, self._reader = order, reader
        self._slots = slots_of(order, rank, plan.topology.hosts)
        self._plan, self._specs, self._mesh = plan, specs, mesh
        self._phases, self._drop_ids = phases, drop_ids

    def start(self, first: int, last: int, *, trains: bool = False) -> AgreedBatches:
        """Begin to make the batches of the steps [first, last): iterate over ``ReadyBatch``.

        Args:
            first: First step.
            last: One past the last.
            trains: Whether they are trained on, and not evaluated: see ``AgreedBatches.tell``.
        """
        raw = raw_batches(self._order, self._reader, self._slots, first, last)
        pipeline = Pipeline(
            _TimedBatches(raw, self._reader), [("encode", self._encode), ("put", self._put)]
        )
        again = self._again if self._plan.minibatching else None
        return AgreedBatches(pipeline, self._mesh, again, rides=trains, phases=self._phases)

    def _encode(self, raw: RawBatch, agreed: int = 0) -> EncodedBatch:
        return encode(raw, self._specs, self._plan, drop_ids=self._drop_ids, agreed=agreed)

    def _again(self, ready: ReadyBatch, cuts: int) -> ReadyBatch:
        return ready if ready.raw is None else self._put(self._encode(ready.raw, cuts))

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
            encoded.cuts,
            encoded.squeezed,
            raw if self._plan.minibatching else None,
        )
