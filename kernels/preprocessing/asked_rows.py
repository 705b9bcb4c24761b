"""What a batch asks of whom: rows counted in the buffers that preprocessing has made.

A row counts once in a partition (what one SparseCore asks of one other), as it is exchanged once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernels.preprocessing.encoded import ProcessShape
from kernels.preprocessing.format import (
    PARTITION_ALIGNMENT,
    PreprocessedInput,
    row_pointers_per_sparsecore,
)

__all__ = ["AskedRows", "asked_rows"]


@dataclass(frozen=True, eq=False)
class AskedRows:
    """What the devices of one process ask of one stack in one batch."""

    entries: np.ndarray
    """``[local devices]`` int64: ids, those that a sample names twice counted once."""
    rows: np.ndarray
    """``[local devices, S]`` int64: rows that each device asks of each SparseCore."""
    different: np.ndarray
    """``[n]`` int64: every row that is asked for once, as SparseCore × 2^32 + local row; sorted."""


def asked_rows(batch: PreprocessedInput, stack: str, shape: ProcessShape) -> AskedRows:
    """Count the rows that a process's devices ask of one stack.

    Args:
        batch: Buffers without minibatches.
        stack: Name of the stack.
        shape: Devices and SparseCores of the process and the mesh.
    """
    ids = np.asarray(batch.lhs_embedding_ids[stack]).reshape(shape.sources, -1)
    pointers = np.asarray(batch.lhs_row_pointers[stack]).reshape(
        shape.sources, row_pointers_per_sparsecore(shape.sparsecores)
    )
    entries = np.zeros(shape.local_devices, np.int64)
    rows = np.zeros((shape.local_devices, shape.sparsecores), np.int64)
    keys: list[np.ndarray] = []
    for source, (core, row) in enumerate(_entries(ids, pointers, shape.sparsecores)):
        device = source // shape.per_device
        entries[device] += len(row)
        # Entries of a partition are sorted by row: each row once, at its first entry.
        key = core << 32 | row
        first = np.ones(len(key), bool)
        first[1:] = key[1:] != key[:-1]
        rows[device] += np.bincount(core[first], minlength=shape.sparsecores)
        keys.append(key[first])
    return AskedRows(entries, rows, np.unique(np.concatenate(keys)))


def _entries(
    ids: np.ndarray, pointers: np.ndarray, sparsecores: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """SparseCore asked and local row of every entry, int64, for one asking SparseCore at a time."""
    for own, ends in zip(ids, pointers[:, :sparsecores].astype(np.int64), strict=True):
        starts = np.zeros_like(ends)
        starts[1:] = -(-ends[:-1] // PARTITION_ALIGNMENT) * PARTITION_ALIGNMENT
        lengths = ends - starts
        core = np.repeat(np.arange(sparsecores), lengths)
        before = np.cumsum(lengths) - lengths
        place = np.arange(len(core)) + np.repeat(starts - before, lengths)
        yield core, own[place].astype(np.int64)
