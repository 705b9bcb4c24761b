"""Rows asked of other devices: each row of a partition once, and the way there and back.

A device asks every device (D in all) for a block of rows, with its used places first. C is the
capacity of a block:

    requests   rows [D, C], counts [D]       which rows, as numbers of the asked device's rows
    `send`     blocks by device asked   →    blocks by device asking
    `send_back`  the reverse

Blocks go whole, padding and all, through ``all_to_all``; or only their used places, through
``ragged_all_to_all``, where a platform has it (XLA for CPUs has not).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels.backends.buffers import read_entries
from kernels.backends.interface import NO_ROW, StackInput, StackLayout

__all__ = ["Requests", "make_requests", "send", "send_back"]


class Requests(NamedTuple):
    """What a device asks of all devices."""

    rows: jax.Array
    """``[D, C]`` int32: rows of the asked device, `NO_ROW` in unused places."""
    counts: jax.Array
    """``[D]`` int32: places used, at the front of every block."""
    slot: jax.Array
    """``[n * buffer]`` int32: the place in ``rows``, flattened, of every entry's row; ``D * C`` for
    padding."""
    row: jax.Array
    """``[n * buffer]`` int32: every entry's row of the asked device, `NO_ROW` for padding."""
    sample: jax.Array
    """``[n * buffer]`` int32: the sample of the device that every entry belongs to; one beyond the
    last for padding."""
    gains: jax.Array
    """``[n * buffer]`` float32, 0 for padding."""


def make_requests(layout: StackLayout, batch: StackInput, device_rows: int) -> Requests:
    """The different rows of every partition, by device.

    Args:
        layout: The stack.
        batch: Buffers without minibatches.
        device_rows: Rows of the stack on a device.
    """
    n, s, devices = layout.sparsecores_per_device, layout.sparsecores, layout.devices
    entries = read_entries(layout, batch)
    ids = batch.embedding_ids.reshape(n, -1)
    unique = layout.stack.max_unique_ids_per_partition
    capacity = n * min(n * unique, ids.shape[1], device_rows)

    # Where the partitions of a block start: ordered by SparseCore here, then SparseCore there.
    ones = entries.first.astype(jnp.int32)
    source = jnp.arange(n, dtype=jnp.int32)[:, None]
    sizes = jnp.zeros((n, s), jnp.int32).at[source, entries.core].add(ones)
    by_device = sizes.reshape(n, devices, n).transpose(1, 0, 2).reshape(devices, n * n)
    starts = jnp.cumsum(by_device, axis=1, dtype=jnp.int32) - by_device
    starts = starts.reshape(devices, n, n).transpose(1, 0, 2).reshape(n, s)

    place = jnp.take_along_axis(starts, entries.core, axis=1) + entries.rank
    # Rows beyond the limit, which preprocessing never writes, would reach into the next block.
    fits = entries.valid & (place < capacity)
    slot = jnp.where(fits, (entries.core // n) * capacity + place, devices * capacity).reshape(-1)
    row = (entries.core % n) * (device_rows // n) + ids
    row = jnp.where(fits, row, NO_ROW).reshape(-1)
    where = jnp.where(entries.first.reshape(-1), slot, devices * capacity)
    rows = (
        jnp.full((devices * capacity,), NO_ROW, jnp.int32)
        .at[where]
        .set(row, mode="drop", unique_indices=True)
    )
    per_core = layout.samples_per_sparsecore
    sample = batch.sample_ids.reshape(n, -1) + source * per_core
    return Requests(
        rows=rows.reshape(devices, capacity),
        counts=jnp.minimum(jnp.sum(by_device, axis=1, dtype=jnp.int32), capacity),
        slot=slot,
        row=row,
        sample=jnp.where(entries.valid, sample, n * per_core).reshape(-1),
        gains=jnp.where(entries.valid.reshape(-1), batch.gains, 0.0),
    )


def send(
    layout: StackLayout, requests: Requests, blocks: jax.Array, filler: float, *, ragged: bool
) -> jax.Array:
    """Blocks ``[D, C, ...]``, by device asked → ``[D, C, ...]``, by device asking.

    Args:
        layout: The stack.
        requests: What the blocks go with.
        blocks: A value for every place of the requests.
        filler: The value of places that are not used.
        ragged: Whether to send used places only.
    """
    if layout.devices == 1:
        return blocks
    if not ragged:
        return _whole(layout, blocks)
    return _used(layout, blocks, filler, requests.counts, _whole(layout, requests.counts))


def send_back(
    layout: StackLayout, requests: Requests, blocks: jax.Array, filler: float, *, ragged: bool
) -> jax.Array:
    """Answers ``[D, C, ...]``, by device asking → ``[D, C, ...]`` in the order of the requests."""
    if layout.devices == 1:
        return blocks
    if not ragged:
        return _whole(layout, blocks)
    return _used(layout, blocks, filler, _whole(layout, requests.counts), requests.counts)


def _whole(layout: StackLayout, blocks: jax.Array) -> jax.Array:
    return jax.lax.all_to_all(blocks, layout.axes, split_axis=0, concat_axis=0, tiled=True)


def _used(
    layout: StackLayout, blocks: jax.Array, filler: float, sent: jax.Array, received: jax.Array
) -> jax.Array:
    """The first ``sent[d]`` places of block ``d`` go to device ``d``, at the same places."""
    devices, capacity = blocks.shape[:2]
    flat = blocks.reshape(devices * capacity, *blocks.shape[2:])
    here = jax.lax.axis_index(layout.axes).astype(jnp.int32) * capacity
    moved = jax.lax.ragged_all_to_all(
        flat,
        jnp.full_like(flat, filler),
        input_offsets=jnp.arange(devices, dtype=jnp.int32) * capacity,
        send_sizes=sent,
        output_offsets=jnp.full((devices,), here, jnp.int32),
        recv_sizes=received,
        axis_name=layout.axes,
    )
    return moved.reshape(blocks.shape)
