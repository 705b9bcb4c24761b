"""Vocabulary: values that have their ids from a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from workers.data.transforms.base import PADDING_ID, InvalidValue, Missing
from workers.data.transforms.columns import (
    check_missing,
    check_whole,
    column_of,
    expect,
    is_text,
    mark_missing,
    plain,
    rows_with_missing,
)
from workers.data.transforms.hashing import hash_values, into_buckets
from workers.data.transforms.value_set import ValueSet
from workers.errors import ProgramError

__all__ = ["Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """Values whose ids are their places in a list; unknown ones share the rows behind it.

    Ids of a list of n values, with ``unknown`` u::

        0 ... n - 1        the values of the list
        n ... n + u - 1    unknown values: n + hash_values(value) mod u
        n + u              nulls, with missing="own"

    Nulls: as ``missing`` says.

    Example:
        >>> Vocabulary("carrier", ValueSet(["UA", "AA"]), unknown=2).vocabulary_size
        4

    Attributes:
        column: Column of strings or integers, as the list has.
        values: The list: `read_vocabulary` reads one, `workers.data.fitting.fit_vocabulary` finds
            one.
        unknown: Rows that values not in the list share, at least 1; or "refuse", or "skip", which
            gives them no id.
    """

    column: str
    values: ValueSet
    unknown: int | Literal["refuse", "skip"] = 1
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        where = f"Vocabulary('{self.column}')"
        if not isinstance(self.values, ValueSet):
            raise ProgramError(
                f"{where}: values are {type(self.values).__name__}; give a ValueSet, for example "
                "read_vocabulary('values.txt') or ValueSet(['red', 'green'])"
            )
        if self.unknown not in ("refuse", "skip"):
            check_whole(where, "unknown", self.unknown)
        check_missing(where, self.missing)
        check_whole(where, "vocabulary_size", self.vocabulary_size)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    @property
    def valency(self) -> int:
        """Always 1; see `Lists` for columns of lists."""
        return 1

    @property
    def vocabulary_size(self) -> int:
        """The values, the rows of unknown ones, and that of nulls."""
        return rows_with_missing(self._known_rows, self.missing)

    @property
    def _known_rows(self) -> int:
        return len(self.values) + (self.unknown if isinstance(self.unknown, int) else 0)

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls."""
        return self.columns if self.missing != "refuse" else ()

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds what the list does."""
        if self.values.strings:
            expect(schema, self.column, is_text, "strings (as the vocabulary holds)")
        else:
            expect(
                schema,
                self.column,
                lambda kind: pa.types.is_integer(plain(kind)),
                "integers (as the vocabulary holds)",
            )

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, 1]``."""
        values, nulls = column_of(table, self.column, takes_nulls=bool(self.nullable))
        ids = self.values.find(values)
        strange = ids < 0
        if nulls is not None:
            strange &= ~nulls
        if strange.any():
            if self.unknown == "refuse":
                row = int(np.argmax(strange))
                raise InvalidValue(
                    self.column,
                    row,
                    f"{values[row].as_py()!r} is not among the {len(self.values)} values of "
                    f"{self.values.source}; add it, or give unknown values rows with unknown=",
                )
            if self.unknown == "skip":
                ids[strange] = PADDING_ID
            else:
                rest = values.filter(pa.array(strange))
                ids[strange] = len(self.values) + into_buckets(hash_values(rest), self.unknown)
        return mark_missing(ids, nulls, self.missing, self._known_rows)[:, None]
