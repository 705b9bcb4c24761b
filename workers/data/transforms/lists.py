"""Lists and Tags: columns of lists, several ids a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from workers.data.transforms.base import PADDING_ID, IdTransform, InvalidValue
from workers.data.transforms.columns import (
    check_choice,
    check_whole,
    column_of,
    expect,
    is_hashable,
    is_list,
    null_mask,
)
from workers.data.transforms.hashing import hash_values, into_buckets, mix
from workers.errors import ProgramError

__all__ = ["Cut", "Lists", "Tags"]

type Cut = Literal["refuse", "end", "start"]
"""What becomes of a list longer than the valency: an error, or it loses its end or its start."""


@dataclass(frozen=True)
class Lists:
    """A list per row, whose values another transform turns into ids.

    Lists may be empty. One longer than ``valency`` is refused, or cut as ``cut`` says, before its
    values are looked at.

    Null lists: ``missing`` "refuse" or "skip", which takes them for empty ones. Nulls inside lists,
    and values out of range: as ``of`` says.

    Example:
        >>> Lists(Vocabulary("genres", read_vocabulary("genres.txt")), valency=5, cut="end")

    Attributes:
        of: Transform of one column, with one id a value; its column is the one of lists.
        valency: Most ids of a row.
    """

    of: IdTransform
    valency: int
    cut: Cut = "refuse"
    missing: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        where = f"Lists of {self.of}"
        if len(self.of.columns) != 1 or self.of.valency != 1:
            raise ProgramError(
                f"{where}: it reads {len(self.of.columns)} columns and makes {self.of.valency} ids "
                "a value; give a transform of one column and one id"
            )
        _check(where, self.valency, self.cut, self.missing)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return self.of.columns

    @property
    def vocabulary_size(self) -> int:
        """That of ``of``."""
        return self.of.vocabulary_size

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls."""
        return self.columns if self.missing != "refuse" else ()

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds lists of what ``of`` takes."""
        (column,) = self.columns
        expect(schema, column, is_list, "lists")
        self.of.check(pa.schema([(column, schema.field(column).type.value_type)]))

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, valency]``, padded with ``PADDING_ID``."""
        (column,) = self.columns
        nullable = bool(self.nullable)
        values, lengths = _unnest(table, column, self.valency, self.cut, takes_nulls=nullable)
        try:
            ids = self.of.apply(pa.table({column: values}))
        except InvalidValue as error:
            row = _row_of(error.row, lengths)
            raise InvalidValue(column, row, f"inside the list: {error.problem}") from error
        return _pad(ids[:, 0], lengths, self.valency)


@dataclass(frozen=True)
class Tags:
    """A list of strings or integers per row, hashed into ``buckets`` ids.

    The id of a value ``v`` is ``mix(hash_values(v, seed)) mod buckets``. Lists may be empty; one
    longer than ``valency`` is refused, or cut as ``cut`` says.

    Nulls: refused, or with ``missing="skip"`` left out, be it a list or a value in one.
    """

    column: str
    buckets: int
    valency: int
    seed: int = 0
    cut: Cut = "refuse"
    missing: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        where = f"Tags('{self.column}')"
        check_whole(where, "buckets", self.buckets)
        check_whole(where, "seed", self.seed, 0, 2**64 - 1)
        _check(where, self.valency, self.cut, self.missing)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    @property
    def vocabulary_size(self) -> int:
        """Ids are below the number of buckets."""
        return self.buckets

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls."""
        return self.columns if self.missing != "refuse" else ()

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds lists of strings or integers."""

        def suits(kind: pa.DataType) -> bool:
            return is_list(kind) and is_hashable(kind.value_type)

        expect(schema, self.column, suits, "lists of strings or integers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, valency]``, padded with ``PADDING_ID``."""
        nullable = bool(self.nullable)
        values, lengths = _unnest(table, self.column, self.valency, self.cut, takes_nulls=nullable)
        ids = into_buckets(mix(hash_values(values, self.seed)), self.buckets)
        if values.null_count:
            nulls = null_mask(values)
            if not nullable:
                row = _row_of(int(np.argmax(nulls)), lengths)
                raise InvalidValue(self.column, row, "a null inside the list")
            ids[nulls] = PADDING_ID
        return _pad(ids, lengths, self.valency)


def _check(where: str, valency: int, cut: str, missing: str) -> None:
    check_whole(where, "valency", valency)
    check_choice(where, "cut", cut, ("refuse", "end", "start"))
    check_choice(where, "missing", missing, ("refuse", "skip"))


def _unnest(
    table: pa.Table, column: str, valency: int, cut: Cut, *, takes_nulls: bool
) -> tuple[pa.Array, np.ndarray]:
    """The values of all lists, cut, one after another; and int64 ``[rows]``, how many of each."""
    chunks, nulls = column_of(table, column, takes_nulls=takes_nulls)
    lists = chunks.combine_chunks()
    if pa.types.is_fixed_size_list(lists.type):
        size = lists.type.list_size
        offsets = (np.arange(len(lists) + 1, dtype=np.int64) + lists.offset) * size
    else:
        offsets = lists.offsets.to_numpy().astype(np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    if nulls is not None:  # there may be values below a null
        lengths[nulls] = 0
    longer = lengths > valency
    if longer.any():
        if cut == "refuse":
            row = int(np.argmax(longer))
            raise InvalidValue(
                column,
                row,
                f"{lengths[row]} values, but the feature's valency is {valency}; raise it, or cut "
                "long lists with cut='end' or cut='start'",
            )
        kept = np.minimum(lengths, valency)
        starts = starts + (lengths - kept) if cut == "start" else starts
        lengths = kept
    total = int(lengths.sum())
    shifts = starts - (np.cumsum(lengths) - lengths)
    held = lengths > 0
    if not held.any() or (shifts[held] == shifts[held][0]).all():
        first = int(starts[held][0]) if held.any() else 0
        return lists.values.slice(first, total), lengths
    return lists.values.take(pa.array(np.repeat(shifts, lengths) + np.arange(total))), lengths


def _row_of(position: int, lengths: np.ndarray) -> int:
    """The row a value of all lists belongs to."""
    return int(np.searchsorted(np.cumsum(lengths), position, side="right"))


def _pad(ids: np.ndarray, lengths: np.ndarray, valency: int) -> np.ndarray:
    padded = np.full((len(lengths), valency), PADDING_ID, np.int32)
    padded[np.arange(valency) < lengths[:, None]] = ids
    return padded
