"""Crossed: combinations of the ids of several transforms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.data.transforms.base import PADDING_ID, IdTransform, nullable_columns
from workers.data.transforms.columns import MOST_ROWS, check_whole
from workers.data.transforms.hashing import GOLDEN, into_buckets, mix
from workers.errors import ProgramError

__all__ = ["Crossed"]


@dataclass(frozen=True)
class Crossed:
    """Combinations of several transforms, such as a bucket of the hour with a city.

    Without ``buckets`` every combination has an id of its own: the last part counts fastest, as
    digits do. With it, the ids ``i`` of the parts in turn go into ``h ← mix(h * G + i)``, with
    ``h`` the seed at first, and the id is ``h mod buckets`` (see
    `workers.data.transforms.hashing`).

    Nulls: as the parts say. Where a part has no id, the combination has none.

    Example:
        >>> Crossed((Buckets("hour", (6, 12, 18)), Hashed(("city",), 512))).vocabulary_size
        2048

    Attributes:
        parts: Two or more transforms with one id a row.
        buckets: Number of ids to hash the combinations into; None gives each its own.
    """

    parts: tuple[IdTransform, ...]
    buckets: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        where = f"Crossed({', '.join(map(str, self.parts))})"
        if len(self.parts) < 2 or any(part.valency != 1 for part in self.parts):
            raise ProgramError(f"{where}: give two or more transforms with one id a row")
        check_whole(where, "seed", self.seed, 0, 2**64 - 1)
        if self.buckets is not None:
            check_whole(where, "buckets", self.buckets)
        elif self.vocabulary_size > MOST_ROWS:
            raise ProgramError(
                f"{where}: there are {self.vocabulary_size} combinations, more than a table's "
                f"{MOST_ROWS} rows; hash them with buckets="
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return tuple(dict.fromkeys(column for part in self.parts for column in part.columns))

    @property
    def valency(self) -> int:
        """Always 1."""
        return 1

    @property
    def vocabulary_size(self) -> int:
        """The number of buckets, or else of combinations."""
        return self.buckets or math.prod(part.vocabulary_size for part in self.parts)

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls: those which all parts that read them let hold nulls."""
        return tuple(
            column
            for column in self.columns
            if all(
                column in nullable_columns(part) for part in self.parts if column in part.columns
            )
        )

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError if a column does not suit its part."""
        for part in self.parts:
            part.check(schema)

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, 1]``."""
        made = [part.apply(table)[:, 0] for part in self.parts]
        if self.buckets is None:
            crossed = np.zeros(table.num_rows, np.int64)
            for part, ids in zip(self.parts, made, strict=True):
                crossed = crossed * part.vocabulary_size + ids
            result = crossed.astype(np.int32)
        else:
            mixed = np.full(table.num_rows, self.seed, np.uint64)
            for ids in made:
                mixed = mix(mixed * GOLDEN + ids.astype(np.uint64))
            result = into_buckets(mixed, self.buckets)
        for ids in made:
            result[ids < 0] = PADDING_ID
        return result[:, None]
