"""Where a table's logical row lies: MOD sharding, with rotation and row offset, in numpy.

A stack of R rows on S SparseCores is one array ``[R, width]``: the shards of SparseCores 0, 1, ...
one after another, R / S rows each. Row ``r`` of a table is on SparseCore ``(r + rotation) % S``, at
row ``row_offset + r // S`` of its shard.
"""

from __future__ import annotations

import numpy as np

from kernels.errors import SpecError

__all__ = ["from_shards", "place_rows", "to_shards"]


def place_rows(
    rows: np.ndarray, sparsecores: int, *, rotation: int = 0, row_offset: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """SparseCore and row in its shard, for logical rows of a table.

    Example:
        >>> place_rows(np.array([0, 1, 5]), 4, rotation=1, row_offset=16)
        (array([1, 2, 2]), array([16, 16, 17]))
    """
    return (rows + rotation) % sparsecores, rows // sparsecores + row_offset


def from_shards(
    stacked: np.ndarray,
    sparsecores: int,
    vocabulary_size: int,
    embedding_dim: int,
    *,
    rotation: int = 0,
    row_offset: int = 0,
) -> np.ndarray:
    """A logical table, ``[vocabulary_size, embedding_dim]``, out of its stack ``[R, width]``."""
    shards = _shards(stacked, sparsecores)
    core, local = place_rows(
        np.arange(vocabulary_size), sparsecores, rotation=rotation, row_offset=row_offset
    )
    return shards[core, local, :embedding_dim]


def to_shards(
    stacked: np.ndarray,
    table: np.ndarray,
    sparsecores: int,
    *,
    rotation: int = 0,
    row_offset: int = 0,
) -> None:
    """Write a logical table into its place in a stack ``[R, width]``, the inverse of `from_shards`.

    Padding rows and columns are left as they are.
    """
    shards = _shards(stacked, sparsecores)
    core, local = place_rows(
        np.arange(table.shape[0]), sparsecores, rotation=rotation, row_offset=row_offset
    )
    shards[core, local, : table.shape[1]] = table


def _shards(stacked: np.ndarray, sparsecores: int) -> np.ndarray:
    if stacked.shape[0] % sparsecores:
        raise SpecError(
            f"a stack of {stacked.shape[0]} rows cannot lie on {sparsecores} SparseCores; "
            "pass the number of SparseCores it was made for"
        )
    return stacked.reshape(sparsecores, -1, stacked.shape[1])
