"""Preprocessing, slow and obvious: what the fast version is tested against.

One batch of one stack, written as it would be explained. Python numbers and lists only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ReferenceFeature", "reference_partitions"]

type Partition = list[tuple[int, int, float]]
"""(local row, sample, gain), sorted."""


@dataclass(frozen=True)
class ReferenceFeature:
    """One feature's samples on this process, and where they go."""

    ids: Sequence[Sequence[int]]
    """Per sample its ids; -1 is padding."""
    gains: Sequence[Sequence[float]]
    row_offset: int = 0
    col_offset: int = 0
    col_shift: int = 0


def reference_partitions(
    features: Sequence[ReferenceFeature],
    combiner: str,
    local_sparsecores: int,
    sparsecores: int,
) -> dict[tuple[int, int], Partition]:
    """The entries of every partition, by (local SparseCore, SparseCore asked)."""
    partitions: dict[tuple[int, int], dict[tuple[int, int], float]] = {
        (source, asked): {} for source in range(local_sparsecores) for asked in range(sparsecores)
    }
    for feature in features:
        samples_per_sparsecore = len(feature.ids) // local_sparsecores
        for number, (ids, gains) in enumerate(zip(feature.ids, feature.gains, strict=True)):
            source, sample = divmod(number, samples_per_sparsecore)
            pairs = [(i, g) for i, g in zip(ids, gains, strict=True) if i >= 0]
            divisor = 1.0
            if combiner == "mean":
                divisor = sum(gain for _, gain in pairs)
            elif combiner == "sqrtn":
                divisor = math.sqrt(sum(gain * gain for _, gain in pairs))
            for embedding_id, gain in pairs:
                asked = (embedding_id + feature.col_shift) % sparsecores
                row = (embedding_id // sparsecores) + feature.col_offset // sparsecores
                key = (row, feature.row_offset // sparsecores + sample)
                partition = partitions[source, asked]
                partition[key] = partition.get(key, 0.0) + gain / divisor
    return {
        where: sorted((row, sample, gain) for (row, sample), gain in entries.items())
        for where, entries in partitions.items()
    }
