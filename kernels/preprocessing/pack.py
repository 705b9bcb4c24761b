"""Step three of preprocessing: sorted entries go into the buffers, and limits are checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.errors import LimitsExceeded, Overflow
from kernels.preprocessing.format import (
    PARTITION_ALIGNMENT,
    UNUSED_ENTRY,
    buffer_size_per_device,
    row_pointers_per_sparsecore,
)
from kernels.specs import StackedTableSpec

__all__ = ["EncodedStack", "KeyLayout", "ProcessShape", "pack"]


@dataclass(frozen=True)
class ProcessShape:
    """How many devices and SparseCores this process and the mesh have."""

    local_devices: int
    devices: int
    """Devices of the mesh."""
    per_device: int
    """SparseCores of a device."""

    @property
    def sources(self) -> int:
        """SparseCores of this process."""
        return self.local_devices * self.per_device

    @property
    def sparsecores(self) -> int:
        """SparseCores of the mesh, S."""
        return self.devices * self.per_device


@dataclass(frozen=True)
class EncodedStack:
    """One stack's buffers on this process, and what the batch needed."""

    row_pointers: np.ndarray
    """``[local SparseCores, max(S, 8)]`` int32."""
    embedding_ids: np.ndarray
    """``[local SparseCores * buffer]`` int32."""
    sample_ids: np.ndarray
    gains: np.ndarray
    max_ids: np.ndarray
    """``[local devices * S]`` int32."""
    max_unique_ids: np.ndarray
    """``[local devices * S]`` int32."""
    required_buffer: np.ndarray
    """``[local SparseCores]`` int32."""
    dropped: int


@dataclass(frozen=True)
class KeyLayout:
    """Bits of the fields of a key, from the lowest up: sample, row, partition."""

    sample_bits: int
    row_bits: int
    partitions: int

    @property
    def partition_shift(self) -> int:
        """Bits below the partition."""
        return self.sample_bits + self.row_bits

    @property
    def bits(self) -> int:
        """Bits of a whole key."""
        return self.partition_shift + (self.partitions - 1).bit_length()


def pack(
    keys: np.ndarray,
    gains: np.ndarray,
    ids_per_entry: np.ndarray | None,
    stack: StackedTableSpec,
    shape: ProcessShape,
    layout: KeyLayout,
    drop: bool,
) -> EncodedStack:
    """Write the buffers of one stack.

    Args:
        keys: ``[entries]`` int64, sorted, each once.
        gains: ``[entries]`` float32.
        ids_per_entry: How many ids of the input became each entry; None for one each.
        stack: Gives the limits.
        shape: Devices and SparseCores.
        layout: How to read the keys.
        drop: Leave out what exceeds the limits.

    Raises:
        LimitsExceeded: If a limit is exceeded and ``drop`` is off.
    """
    grid = (shape.sources, shape.sparsecores)
    first, unique_before = _boundaries(keys, layout)
    counts = np.diff(first).reshape(grid)
    unique = np.diff(unique_before[first]).reshape(grid)
    required = _aligned_size(counts).sum(axis=1)
    buffer = buffer_size_per_device(stack, shape.sparsecores, shape.per_device) // shape.per_device

    dropped = 0
    too_large = (
        ("max_ids_per_partition", stack.max_ids_per_partition, int(counts.max())),
        ("max_unique_ids_per_partition", stack.max_unique_ids_per_partition, int(unique.max())),
        (
            "buffer_size_per_device",
            buffer * shape.per_device,
            int(required.max()) * shape.per_device,
        ),
    )
    ends = counts
    overflows = [Overflow(stack.stack_name, *limit) for limit in too_large if limit[2] > limit[1]]
    if overflows:
        if not drop:
            raise LimitsExceeded(overflows)
        within, fits = _kept(first, unique_before, counts, stack, buffer)
        keep = within & fits
        # Every id beyond a limit, but an entry beyond the buffer once: the counts of the peer.
        beyond = ~within
        dropped = int(np.count_nonzero(within & ~fits))
        dropped += int(beyond.sum() if ids_per_entry is None else ids_per_entry[beyond].sum())
        keys, gains = keys[keep], gains[keep]
        first = np.searchsorted(keys, _partition_starts(layout))
        ends = np.diff(first).reshape(grid)

    aligned = _aligned_size(ends)
    start = np.cumsum(aligned, axis=1) - aligned
    start = np.minimum(start, buffer)
    pointers = np.empty((shape.sources, row_pointers_per_sparsecore(grid[1])), dtype=np.int32)
    pointers[:, : grid[1]] = start + ends
    pointers[:, grid[1] :] = (start + aligned)[:, -1:]

    size = shape.sources * buffer
    embedding_ids = np.full(size, UNUSED_ENTRY, dtype=np.int32)
    sample_ids = np.full(size, UNUSED_ENTRY, dtype=np.int32)
    all_gains = np.full(size, np.nan, dtype=np.float32)
    shift = (start + np.arange(shape.sources)[:, None] * buffer).ravel() - first[:-1]
    position = np.repeat(shift, ends.ravel())
    position += np.arange(keys.size)
    embedding_ids[position] = (keys >> layout.sample_bits) & ((1 << layout.row_bits) - 1)
    sample_ids[position] = keys & ((1 << layout.sample_bits) - 1)
    all_gains[position] = gains
    return EncodedStack(
        pointers,
        embedding_ids,
        sample_ids,
        all_gains,
        max_ids=_most_of_device(counts, shape),
        max_unique_ids=_most_of_device(unique, shape),
        required_buffer=required.astype(np.int32),
        dropped=dropped,
    )


def _most_of_device(counts: np.ndarray, shape: ProcessShape) -> np.ndarray:
    by_device = counts.reshape(shape.local_devices, shape.per_device, shape.sparsecores)
    return by_device.max(axis=1).reshape(-1).astype(np.int32)


def _aligned_size(counts: np.ndarray) -> np.ndarray:
    return -(-counts // PARTITION_ALIGNMENT) * PARTITION_ALIGNMENT


def _partition_starts(layout: KeyLayout) -> np.ndarray:
    return np.arange(layout.partitions + 1, dtype=np.int64) << layout.partition_shift


def _boundaries(keys: np.ndarray, layout: KeyLayout) -> tuple[np.ndarray, np.ndarray]:
    """First entry of every partition (and the end); different rows before every entry."""
    rows = keys >> layout.sample_bits
    unique_before = np.zeros(keys.size + 1, dtype=np.int64)
    is_new = unique_before[1:]
    is_new[:1] = 1
    np.not_equal(rows[1:], rows[:-1], out=is_new[1:], casting="unsafe")
    np.cumsum(is_new, out=is_new)
    return np.searchsorted(keys, _partition_starts(layout)), unique_before


def _kept(
    first: np.ndarray,
    unique_before: np.ndarray,
    counts: np.ndarray,
    stack: StackedTableSpec,
    buffer: int,
) -> tuple[np.ndarray, np.ndarray]:
    """When ids may be dropped: which entries are within the limits, and which fit the buffer."""
    sizes = counts.ravel()
    rank = np.arange(first[-1]) - np.repeat(first[:-1], sizes)
    unique_rank = unique_before[1:] - np.repeat(unique_before[first[:-1]], sizes)
    within = rank < stack.max_ids_per_partition
    within &= unique_rank <= stack.max_unique_ids_per_partition
    left = np.diff(np.concatenate(([0], np.cumsum(within)))[first]).reshape(counts.shape)
    aligned = _aligned_size(left)
    start = np.cumsum(aligned, axis=1) - aligned
    room = np.clip(buffer - start, 0, None).ravel()
    return within, rank < np.repeat(room, sizes)
