"""Step four of preprocessing in numpy: sorted entries go into the buffers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.preprocessing.format import PARTITION_ALIGNMENT, UNUSED_ENTRY

__all__ = ["Bins", "Buffers", "aligned_size", "fitting", "pack"]


@dataclass(frozen=True)
class Bins:
    """How partitions share buffers: ``count`` bins of ``size`` entries.

    A bin is the buffer of a SparseCore; with minibatching, that of a device. It has ``segments``
    (SparseCores and minibatches) of ``asked`` partitions, and ``pointers`` row pointers for each
    of at most ``most_segments`` segments.
    """

    count: int
    size: int
    segments: int
    asked: int
    pointers: int
    most_segments: int

    @property
    def grid(self) -> tuple[int, int]:
        """(bins, partitions of a bin)."""
        return self.count, self.segments * self.asked


@dataclass(frozen=True)
class Buffers:
    """Row pointers ``[bins, most_segments * pointers]``, and entries ``[bins * size]``."""

    row_pointers: np.ndarray
    embedding_ids: np.ndarray
    sample_ids: np.ndarray
    gains: np.ndarray


def aligned_size(counts: np.ndarray) -> np.ndarray:
    """Entries that partitions take, alignment included."""
    return -(-counts // PARTITION_ALIGNMENT) * PARTITION_ALIGNMENT


def fitting(counts: np.ndarray, bins: Bins) -> np.ndarray:
    """``[entries]`` bool: which entries have room, partitions taking what they need in turn.

    Args:
        counts: ``[partitions]`` entries of each, bin after bin.
        bins: The room.
    """
    aligned = aligned_size(counts.reshape(bins.grid))
    start = np.cumsum(aligned, axis=1) - aligned
    room = np.clip(bins.size - start, 0, None).ravel()
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank < np.repeat(room, counts)


def pack(
    rows: np.ndarray, samples: np.ndarray, gains: np.ndarray, counts: np.ndarray, bins: Bins
) -> Buffers:
    """Write entries that fit into new buffers.

    Args:
        rows: ``[entries]`` local rows, in the order of the partitions.
        samples: ``[entries]``.
        gains: ``[entries]`` float32.
        counts: ``[partitions]`` entries of each, bin after bin.
        bins: The layout.
    """
    counts = counts.reshape(bins.grid)
    aligned = aligned_size(counts)
    start = np.cumsum(aligned, axis=1) - aligned
    start = np.minimum(start, bins.size)
    shape = (bins.count, bins.segments, bins.asked)
    ends = (start + aligned).reshape(shape)[:, :, -1:]
    # What is not used repeats the aligned end: of the segment, and after the last one, of the bin.
    last = np.broadcast_to(ends[:, -1:], (bins.count, bins.most_segments, bins.pointers))
    pointers = last.astype(np.int32)
    pointers[:, : bins.segments] = ends
    pointers[:, : bins.segments, : bins.asked] = (start + counts).reshape(shape)

    total = bins.count * bins.size
    embedding_ids = np.full(total, UNUSED_ENTRY, dtype=np.int32)
    sample_ids = np.full(total, UNUSED_ENTRY, dtype=np.int32)
    all_gains = np.full(total, np.nan, dtype=np.float32)
    before = np.cumsum(counts.ravel()) - counts.ravel()
    shift = (start + np.arange(bins.count)[:, None] * bins.size).ravel() - before
    position = np.repeat(shift, counts.ravel())
    position += np.arange(rows.size)
    embedding_ids[position] = rows
    sample_ids[position] = samples
    all_gains[position] = gains
    return Buffers(pointers.reshape(bins.count, -1), embedding_ids, sample_ids, all_gains)
