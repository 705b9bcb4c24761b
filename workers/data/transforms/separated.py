"""Separated: strings that hold several values, as lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.data.transforms.columns import expect, is_text, plain
from workers.data.transforms.lists import Lists, Tags
from workers.errors import ProgramError

__all__ = ["Separated", "cut"]


@dataclass(frozen=True)
class Separated:
    """A string per row that holds several values, cut into a list for another transform.

    The empty string is an empty list. Nulls: as ``of`` says.

    Example:
        >>> Separated("|", Tags("genres", buckets=64, valency=6))  # Comedy|Drama

    Attributes:
        separator: What stands between two values.
        of: Makes the ids; its column is the one of strings.
    """

    separator: str
    of: Lists | Tags

    def __post_init__(self) -> None:
        if not self.separator:
            raise ProgramError(
                f"Separated of {self.of}: the separator is empty; give what stands between two "
                "values, for example '|'"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return self.of.columns

    @property
    def valency(self) -> int:
        """That of ``of``."""
        return self.of.valency

    @property
    def vocabulary_size(self) -> int:
        """That of ``of``."""
        return self.of.vocabulary_size

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls."""
        return self.of.nullable

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds strings."""
        (column,) = self.columns
        expect(schema, column, is_text, "strings")
        self.of.check(pa.schema([(column, pa.large_list(pa.large_string()))]))

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, valency]``, padded with ``PADDING_ID``."""
        (column,) = self.columns
        return self.of.apply(pa.table({column: cut(table.column(column), self.separator)}))


def cut(values: pa.ChunkedArray, separator: str) -> pa.ChunkedArray:
    """Strings cut at a separator: lists of strings, without empty ones; nulls stay."""
    strings = values.cast(plain(values.type)).cast(pa.large_string())
    compute: Any = pc
    chunks = []
    for chunk in strings.chunks:
        parts = compute.split_pattern(chunk, separator)
        kept = (
            np.asarray(compute.not_equal(parts.values, ""))
            if len(parts.values)
            else np.zeros(0, bool)
        )
        if not kept.all():
            before = np.concatenate([[0], np.cumsum(kept)])
            offsets = before[parts.offsets.to_numpy()]
            parts = pa.LargeListArray.from_arrays(
                pa.array(offsets, pa.int64()),
                parts.values.filter(pa.array(kept)),
                mask=parts.is_null() if parts.null_count else None,
            )
        chunks.append(parts.cast(pa.large_list(pa.large_string())))
    return pa.chunked_array(chunks, pa.large_list(pa.large_string()))
