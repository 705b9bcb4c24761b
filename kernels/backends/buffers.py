"""Reading the buffers of a stack inside a program: partitions, entries, minibatches.

The layout is that of `kernels.preprocessing.format`. With minibatches, a device's buffer is one
chain of partitions: those of its first SparseCore's first minibatch, then of its second minibatch,
and so on, then those of its next SparseCore; row pointers count from the start of the device's
buffer, and each (SparseCore, minibatch) has ``max(S, 8)`` of them, one after another.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels.backends.interface import StackInput, StackLayout
from kernels.preprocessing.format import (
    PARTITION_ALIGNMENT,
    UNUSED_ENTRY,
    row_pointers_per_sparsecore,
)
from kernels.utils import round_up

__all__ = ["Entries", "minibatch", "read_entries", "running_count"]

_FEW_PARTITIONS = 64
"""Up to this many, comparing with every partition's end is quicker than searching."""


class Entries(NamedTuple):
    """The entries of a device's buffers, ``[n, buffer]`` each, by SparseCore."""

    valid: jax.Array
    """False for padding."""
    core: jax.Array
    """SparseCore asked, 0 to S - 1."""
    first: jax.Array
    """Whether it is the first of its row in its partition."""
    rank: jax.Array
    """Which of the different rows of its partition it names, counted from 0."""


def read_entries(layout: StackLayout, batch: StackInput) -> Entries:
    """What the row pointers say of every entry, for buffers without minibatches."""
    n, s = layout.sparsecores_per_device, layout.sparsecores
    ids = batch.embedding_ids.reshape(n, -1)
    ends = batch.row_pointers.reshape(n, row_pointers_per_sparsecore(s))[:, :s]
    aligned = _aligned(ends)
    position = jnp.arange(ids.shape[1], dtype=jnp.int32)

    # The partition of an entry: how many partitions have ended before it.
    if s <= _FEW_PARTITIONS:
        core = jnp.sum(position[None, :, None] >= aligned[:, None, :], axis=2, dtype=jnp.int32)
    else:
        core = jax.vmap(lambda a: jnp.searchsorted(a, position, side="right"))(aligned)
        core = core.astype(jnp.int32)
    known = jnp.minimum(core, s - 1)
    valid = (core < s) & (position < jnp.take_along_axis(ends, known, axis=1))

    starts = jnp.pad(aligned[:, :-1], ((0, 0), (1, 0)))
    is_start = position == jnp.take_along_axis(starts, known, axis=1)
    changed = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first = valid & (is_start | changed)

    # Rank of an entry's row among the rows of its partition.
    up_to_here = running_count(first)
    before = jnp.pad(up_to_here, ((0, 0), (1, 0)))
    at_start = jnp.take_along_axis(before, jnp.minimum(starts, ids.shape[1]), axis=1)
    rank = up_to_here - 1 - jnp.take_along_axis(at_start, known, axis=1)
    return Entries(valid, known, first, rank)


def minibatch(layout: StackLayout, batch: StackInput, number: jax.Array) -> StackInput:
    """One minibatch, in buffers as they are without minibatches.

    Args:
        layout: The stack.
        batch: Buffers with minibatches.
        number: Which, from 0 to ``batch.num_minibatches - 1``.

    Returns:
        Buffers with room for full partitions, or for all entries if those are fewer.
    """
    n, s = layout.sparsecores_per_device, layout.sparsecores
    pointers = batch.row_pointers.reshape(-1, row_pointers_per_sparsecore(s))
    block = jnp.arange(n, dtype=jnp.int32) * batch.num_minibatches[0] + number
    before = jnp.where(block > 0, _aligned(pointers[block - 1, -1]), 0)[:, None]
    full = round_up(layout.stack.max_ids_per_partition, PARTITION_ALIGNMENT) * s
    room = min(full, batch.embedding_ids.shape[0])
    where = before + jnp.arange(room, dtype=jnp.int32)

    def cut(values: jax.Array, filler: float) -> jax.Array:
        return jnp.take(values, where, mode="fill", fill_value=filler).reshape(-1)

    return StackInput(
        row_pointers=(pointers[block] - before).reshape(-1),
        embedding_ids=cut(batch.embedding_ids, UNUSED_ENTRY),
        sample_ids=cut(batch.sample_ids, UNUSED_ENTRY),
        gains=cut(batch.gains, jnp.nan),
        num_minibatches=jnp.ones((1,), jnp.int32),
    )


def running_count(flags: jax.Array) -> jax.Array:
    """Inclusive count of the flags set, along the last axis."""
    return jax.lax.associative_scan(jnp.add, flags.astype(jnp.int32), axis=flags.ndim - 1)


def _aligned(ends: jax.Array) -> jax.Array:
    return -(-ends // PARTITION_ALIGNMENT) * PARTITION_ALIGNMENT
