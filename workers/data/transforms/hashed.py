"""Hashed: strings and integers of one or several columns, hashed into ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.data.transforms.base import Missing
from workers.data.transforms.columns import (
    check_missing,
    check_whole,
    column_of,
    expect,
    is_hashable,
    mark_missing,
    rows_with_missing,
)
from workers.data.transforms.hashing import GOLDEN, hash_values, into_buckets, mix
from workers.errors import ProgramError

__all__ = ["Hashed"]


@dataclass(frozen=True)
class Hashed:
    """Strings or integers of one or several columns, hashed together into ``buckets`` ids.

    Several columns make a cross: each distinct combination gets an id of its own, but for
    collisions, whose share is about (combinations / 2) / buckets. The hashes are those of
    `hash_values`; those of the columns ``c`` in turn go into ``h ← mix(h * G + hash(c))``, with
    ``h`` the seed at first, and the id is ``h mod buckets``.

    Nulls: as ``missing`` says; a cross is missing if one of its columns is.

    Example:
        >>> Hashed(("city", "hour"), buckets=4096, missing="own").vocabulary_size
        4097
    """

    columns: tuple[str, ...]
    buckets: int
    seed: int = 0
    valency: int = 1
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        where = f"Hashed({self.columns})"
        if isinstance(self.columns, str) or not self.columns:
            raise ProgramError(f"{where}: columns are {self.columns!r}; give a tuple of names")
        check_whole(where, "buckets", self.buckets)
        check_whole(where, "seed", self.seed, 0, 2**64 - 1)
        check_whole(where, "valency", self.valency, 1, 1)
        check_missing(where, self.missing)

    @property
    def vocabulary_size(self) -> int:
        """The number of buckets, and one more if nulls have an id of their own."""
        return rows_with_missing(self.buckets, self.missing)

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls."""
        return self.columns if self.missing != "refuse" else ()

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless all columns hold strings or integers."""
        for column in self.columns:
            expect(schema, column, is_hashable, "strings or integers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, 1]``."""
        mixed = np.full(table.num_rows, self.seed, np.uint64)
        absent: np.ndarray | None = None
        for column in self.columns:
            values, nulls = column_of(table, column, takes_nulls=bool(self.nullable))
            mixed = mix(mixed * GOLDEN + hash_values(values, self.seed))
            if nulls is not None:
                absent = nulls if absent is None else absent | nulls
        ids = into_buckets(mixed, self.buckets)
        return mark_missing(ids, absent, self.missing, self.buckets)[:, None]
