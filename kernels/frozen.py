"""Frozen tables: their ids are taken out of a batch before its update.

An update touches the rows of its batch alone, so a table none of whose ids is in the batch stays
as it is, bit by bit, slot variables and all, whatever the optimizer and the backend; also when it
is stacked with tables that are trained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import jax
import jax.numpy as jnp

from kernels.backends import StackInput, StackLayout
from kernels.errors import SpecError
from kernels.preprocessing.format import (
    PARTITION_ALIGNMENT,
    UNUSED_ENTRY,
    row_pointers_per_sparsecore,
)
from kernels.specs import TableSpec
from kernels.utils import name_list

__all__ = ["check_frozen_tables", "without_tables"]


def check_frozen_tables(frozen: Collection[str], tables: Mapping[str, TableSpec]) -> frozenset[str]:
    """The names, refused if a table of that name does not exist.

    Raises:
        SpecError: Naming those that do not exist.
    """
    names = frozenset([frozen] if isinstance(frozen, str) else frozen)
    if unknown := names - tables.keys():
        raise SpecError(
            f"frozen_tables names {name_list(unknown)}, but the tables are {name_list(tables)}; "
            "give names of TableSpecs"
        )
    return names


def without_tables(
    layout: StackLayout, batch: StackInput, tables: Sequence[TableSpec]
) -> StackInput:
    """The batch without the ids of some tables of the stack, in the same layout and sizes.

    Args:
        layout: The stack.
        batch: A device's buffers.
        tables: Stacked tables.
    """
    ids = batch.embedding_ids
    keep = jnp.ones(ids.shape, bool)
    for table in tables:
        place = table.setting_in_stack
        first = place.row_offset_in_shard
        last = first + place.padded_vocab_size // layout.sparsecores
        keep &= (ids < first) | (ids >= last)

    chains = 1 if layout.enable_minibatching else layout.sparsecores_per_device
    pointers = batch.row_pointers
    if layout.enable_minibatching:
        # Row pointers of minibatches that are not there may hold anything.
        per_minibatch = row_pointers_per_sparsecore(layout.sparsecores)
        used = layout.sparsecores_per_device * per_minibatch * batch.num_minibatches[0]
        index = jnp.arange(pointers.shape[0], dtype=jnp.int32)
        pointers = jnp.where(index < used, pointers, pointers[used - 1])
    ends, place = jax.vmap(_new_places)(pointers.reshape(chains, -1), keep.reshape(chains, -1))

    def move(values: jax.Array, filler: float) -> jax.Array:
        blank = jnp.full_like(values, filler).reshape(chains, -1)
        put = jax.vmap(lambda b, p, v: b.at[p].set(v, mode="drop", unique_indices=True))
        return put(blank, place, values.reshape(chains, -1)).reshape(-1)

    return StackInput(
        row_pointers=ends.reshape(-1),
        embedding_ids=move(ids, UNUSED_ENTRY),
        sample_ids=move(batch.sample_ids, UNUSED_ENTRY),
        gains=move(batch.gains, jnp.nan),
        num_minibatches=batch.num_minibatches,
    )


def _new_places(ends: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Row pointers of the entries kept, and where each of these goes; others beyond the end."""
    size = keep.shape[0]
    position = jnp.arange(size, dtype=jnp.int32)
    partition = jnp.searchsorted(_aligned(ends), position, side="right").astype(jnp.int32)
    known = jnp.minimum(partition, ends.shape[0] - 1)
    keep = keep & (partition < ends.shape[0]) & (position < ends[known])
    counts = jnp.zeros(ends.shape, jnp.int32).at[known].add(keep.astype(jnp.int32))
    starts = jnp.cumsum(_aligned(counts), dtype=jnp.int32) - _aligned(counts)
    rank = (
        jnp.cumsum(keep, dtype=jnp.int32)
        - 1
        - (jnp.cumsum(counts, dtype=jnp.int32) - counts)[known]
    )
    return starts + counts, jnp.where(keep, starts[known] + rank, size + position)


def _aligned(ends: jax.Array) -> jax.Array:
    return -(-ends // PARTITION_ALIGNMENT) * PARTITION_ALIGNMENT
