"""The backend in plain JAX: it runs everywhere, and is the readable reference.

With D devices of n SparseCores (S = D n), every device works in four moves. U is the stack's
``max_unique_ids_per_partition``.

    1. find the different rows of every partition            requests [n, S, U]
    2. exchange the requests                                  all_to_all
    3. lookup: read those rows, exchange them back, multiply by gains, add up per sample
       update: add up gradients per requested row, exchange them, add up what several SparseCores
               say about one row, and update each row once

Only rows of the batch are touched: nothing here is as large as a table, and in a donated step the
tables are changed in place.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels.backends.interface import StackInput, StackLayout
from kernels.preprocessing.format import PARTITION_ALIGNMENT, row_pointers_per_sparsecore
from kernels.specs import QuantizationConfig
from kernels.variables import EmbeddingVariables, like_slots

__all__ = ["XlaBackend"]

_NOTHING = 2**31 - 1
"""A row number beyond every table: reads 0, writes nothing."""


class _Entries(NamedTuple):
    """The entries of a device's buffers, ``[n * buffer]`` each."""

    valid: jax.Array
    core: jax.Array
    """SparseCore asked."""
    slot: jax.Array
    """Place in the requests ``[n * S * U]``; beyond them if the entry is padding."""
    is_first: jax.Array
    """First entry of its row in its partition."""


class XlaBackend:
    """Lookup and update in plain JAX."""

    name = "xla"

    def lookup(self, layout: StackLayout, batch: StackInput, table: jax.Array) -> jax.Array:
        """See `Backend.lookup`."""
        entries = _entries(layout, batch)
        if layout.devices == 1:
            row = jnp.where(entries.valid, _device_row(layout, batch, entries, table), _NOTHING)
            rows = _read(table, row)
            rows = _quantized(rows, layout.stack.quantization_config)
        else:
            asked = _exchange(layout, _requests(layout, batch, entries))
            found = _read(table, _requested_rows(layout, asked, table).reshape(-1))
            found = _quantized(found, layout.stack.quantization_config)
            answers = _exchange_back(layout, found)
            rows = jnp.take(answers, entries.slot, axis=0, mode="fill", fill_value=0)
        gains = jnp.where(entries.valid, batch.gains, 0.0)
        samples = layout.samples_per_sparsecore * layout.sparsecores_per_device
        return (
            jnp.zeros((samples, table.shape[1]), table.dtype)
            .at[_device_sample(layout, batch, entries)]
            .add(rows * gains[:, None], mode="drop")
        )

    def update(
        self,
        layout: StackLayout,
        batch: StackInput,
        variables: EmbeddingVariables,
        gradients: jax.Array,
        hyperparameters: tuple[jax.Array, ...],
        bounds: tuple[float | None, float | None],
    ) -> EmbeddingVariables:
        """See `Backend.update`."""
        entries = _entries(layout, batch)
        sample = _device_sample(layout, batch, entries)
        per_entry = jnp.take(gradients, sample, axis=0, mode="fill", fill_value=0)
        per_entry = per_entry * jnp.where(entries.valid, batch.gains, 0.0)[:, None]
        requests = _requests(layout, batch, entries)
        per_request = (
            jnp.zeros((requests.size, gradients.shape[1]), gradients.dtype)
            .at[entries.slot]
            .add(per_entry, mode="drop")
        )
        asked = _exchange(layout, requests)
        rows = _requested_rows(layout, asked, variables.table).reshape(-1)
        received = _exchange_rows(layout, per_request)
        if layout.sparsecores > 1:
            rows, received = _merged(rows, received, variables.table.shape[0])
        return _updated(layout, variables, rows, received, hyperparameters, bounds)


def _entries(layout: StackLayout, batch: StackInput) -> _Entries:
    n, s = layout.sparsecores_per_device, layout.sparsecores
    unique = layout.stack.max_unique_ids_per_partition
    ids = batch.embedding_ids.reshape(n, -1)
    ends = batch.row_pointers.reshape(n, row_pointers_per_sparsecore(s))[:, :s]
    aligned = -(-ends // PARTITION_ALIGNMENT) * PARTITION_ALIGNMENT
    position = jnp.arange(ids.shape[1], dtype=jnp.int32)

    # The partition of an entry: how many partitions have ended before it.
    if s <= 64:
        core = jnp.sum(position[None, :, None] >= aligned[:, None, :], axis=2, dtype=jnp.int32)
    else:
        core = jax.vmap(lambda a: jnp.searchsorted(a, position, side="right"))(aligned)
        core = core.astype(jnp.int32)
    known = jnp.minimum(core, s - 1)
    valid = (core < s) & (position < jnp.take_along_axis(ends, known, axis=1))

    starts = jnp.pad(aligned[:, :-1], ((0, 0), (1, 0)))
    is_start = position == jnp.take_along_axis(starts, known, axis=1)
    changed = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    is_first = valid & (is_start | changed)

    # Rank of an entry's row among the rows of its partition.
    up_to_here = _running_count(is_first)
    before = jnp.pad(up_to_here, ((0, 0), (1, 0)))
    at_start = jnp.take_along_axis(before, jnp.minimum(starts, ids.shape[1]), axis=1)
    rank = up_to_here - 1 - jnp.take_along_axis(at_start, known, axis=1)
    source = jnp.arange(n, dtype=jnp.int32)[:, None]
    slot = (source * s + known) * unique + rank
    # Ids beyond the limit, which preprocessing never writes, would reach into the next partition.
    slot = jnp.where(valid & (rank < unique), slot, n * s * unique)
    return _Entries(valid.reshape(-1), known.reshape(-1), slot.reshape(-1), is_first.reshape(-1))


def _running_count(flags: jax.Array) -> jax.Array:
    """Inclusive count of the flags set, along the last axis."""
    return jax.lax.associative_scan(jnp.add, flags.astype(jnp.int32), axis=1)


def _device_sample(layout: StackLayout, batch: StackInput, entries: _Entries) -> jax.Array:
    """Which of the device's samples an entry belongs to; beyond them for padding."""
    n, per_core = layout.sparsecores_per_device, layout.samples_per_sparsecore
    source = jnp.arange(n, dtype=jnp.int32)[:, None] * per_core
    sample = batch.sample_ids.reshape(n, -1) + source
    return jnp.where(entries.valid, sample.reshape(-1), n * per_core)


def _device_row(
    layout: StackLayout, batch: StackInput, entries: _Entries, table: jax.Array
) -> jax.Array:
    """On one device: which of its rows an entry asks for."""
    return entries.core * (table.shape[0] // layout.sparsecores) + batch.embedding_ids


def _requests(layout: StackLayout, batch: StackInput, entries: _Entries) -> jax.Array:
    """``[n, S, U]``: the different rows of every partition, then padding."""
    n, s = layout.sparsecores_per_device, layout.sparsecores
    unique = layout.stack.max_unique_ids_per_partition
    size = n * s * unique
    where = jnp.where(entries.is_first, entries.slot, size)
    ids = (
        jnp.full((size,), _NOTHING, jnp.int32)
        .at[where]
        .set(batch.embedding_ids, mode="drop", unique_indices=True)
    )
    return ids.reshape(n, s, unique)


def _exchange(layout: StackLayout, requests: jax.Array) -> jax.Array:
    """Requests ``[n, S, U]`` → what others ask: ``[D, n, n, U]`` (device, its core, core here)."""
    n, unique = layout.sparsecores_per_device, requests.shape[2]
    by_device = requests.reshape(n, layout.devices, n, unique).transpose(1, 0, 2, 3)
    return _all_to_all(layout, by_device)


def _exchange_rows(layout: StackLayout, rows: jax.Array) -> jax.Array:
    """The same for the rows that go with the requests: → ``[D * n * n * U, width]``."""
    n, width = layout.sparsecores_per_device, rows.shape[1]
    by_device = rows.reshape(n, layout.devices, -1, width).transpose(1, 0, 2, 3)
    return _all_to_all(layout, by_device).reshape(-1, width)


def _exchange_back(layout: StackLayout, rows: jax.Array) -> jax.Array:
    """Answers ``[D * n * n * U, width]`` → ``[n * S * U, width]`` in the order of the requests."""
    n, width = layout.sparsecores_per_device, rows.shape[1]
    answers = _all_to_all(layout, rows.reshape(layout.devices, n, -1, width))
    return answers.transpose(1, 0, 2, 3).reshape(-1, width)


def _all_to_all(layout: StackLayout, blocks: jax.Array) -> jax.Array:
    if layout.devices == 1:
        return blocks
    return jax.lax.all_to_all(blocks, layout.axes, split_axis=0, concat_axis=0, tiled=True)


def _requested_rows(layout: StackLayout, asked: jax.Array, table: jax.Array) -> jax.Array:
    """``[D, n, n, U]`` row of this device that each request names."""
    n = layout.sparsecores_per_device
    rows_per_core = table.shape[0] // n
    core = jnp.arange(n, dtype=jnp.int32)[None, None, :, None]
    return jnp.where(asked == _NOTHING, _NOTHING, core * rows_per_core + asked)


def _read(table: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.take(table, rows, axis=0, mode="fill", fill_value=0)


def _quantized(rows: jax.Array, config: QuantizationConfig | None) -> jax.Array:
    """Rows rounded to the nearest bucket: the simulated quantization of TPU embeddings."""
    if config is None:
        return rows
    low, high, buckets = config.as_tuple()
    quantum = (high - low) / (buckets - 1)
    return jnp.floor((jnp.clip(rows, low, high) - low) / quantum + 0.5) * quantum + low


def _merged(rows: jax.Array, gradients: jax.Array, table_rows: int) -> tuple[jax.Array, jax.Array]:
    """Each row once, ascending, with the sum of its gradients; `_NOTHING` fills the rest.

    The sort is stable and sums run in its order, so results repeat bit by bit.
    """
    count = rows.shape[0]
    positions = jnp.arange(count, dtype=jnp.int32)
    ordered, order = jax.lax.sort((rows, positions), num_keys=1, is_stable=True)
    is_first = jnp.pad(ordered[1:] != ordered[:-1], (1, 0), constant_values=True)
    group = _running_count(is_first[None])[0] - 1
    groups = min(count, table_rows + 1)
    unique = (
        jnp.full((groups,), _NOTHING, jnp.int32)
        .at[jnp.where(is_first, group, groups)]
        .set(ordered, mode="drop", unique_indices=True)
    )
    place = jnp.zeros((count,), jnp.int32).at[order].set(group, unique_indices=True)
    summed = (
        jnp.zeros((groups, gradients.shape[1]), gradients.dtype)
        .at[place]
        .add(gradients, mode="drop")
    )
    return unique, summed


def _updated(
    layout: StackLayout,
    variables: EmbeddingVariables,
    rows: jax.Array,
    gradients: jax.Array,
    hyperparameters: tuple[jax.Array, ...],
    bounds: tuple[float | None, float | None],
) -> EmbeddingVariables:
    """One optimizer step for ``rows``, ascending and each once, `_NOTHING` at the end."""
    stack = layout.stack
    table, slots = stack.optimizer.update(
        gradients,
        _read(variables.table, rows),
        tuple(_read(slot, rows) for slot in variables.slot),
        hyperparameters,
        embedding_dim=stack.unpadded_embedding_dim or stack.stack_embedding_dim,
    )
    low, high = bounds
    if low is not None or high is not None:
        table = jnp.clip(table, low, high)

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[rows].set(
            new.astype(old.dtype), mode="drop", unique_indices=True, indices_are_sorted=True
        )

    written = [write(old, new) for old, new in zip(variables.slot, slots, strict=True)]
    return EmbeddingVariables(write(variables.table, table), like_slots(variables.slot, written))
