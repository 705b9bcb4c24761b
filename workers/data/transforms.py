"""From columns of a file to ids and numbers, declared by a program.

Each transform names the columns it reads, says whether a file's columns suit it (``check``), and
turns a table of rows into one numpy array (``apply``). All work on whole Arrow columns; strings are
hashed once per distinct value. They are frozen values: their text form is part of the program's
fingerprint.

    Ids        integer column, used as it is                       [n, 1]
    Hashed     one or several columns of strings or integers       [n, 1]
    Buckets    number column, cut at boundaries                    [n, 1]
    Tags       list column of strings or integers                  [n, valency], padded with -1
    Number     number column, standardised                         [n]      (dense)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa

from workers.errors import DataError, ProgramError

__all__ = [
    "PADDING_ID",
    "Buckets",
    "DenseTransform",
    "Hashed",
    "IdTransform",
    "Ids",
    "InvalidValue",
    "Number",
    "Tags",
    "hash_values",
]

PADDING_ID = -1
"""Id that stands for "no id" in padded feature arrays."""


class InvalidValue(DataError):
    """A value a transform cannot take; the reader adds file and row group.

    Attributes:
        column: Name of the column.
        row: Row within the table the transform was given.
        problem: What is wrong with the value.
    """

    def __init__(self, column: str, row: int, problem: str) -> None:
        self.column, self.row, self.problem = column, row, problem
        super().__init__(f"column '{column}', row {row}: {problem}")

    def __reduce__(self) -> tuple[type[InvalidValue], tuple[str, int, str]]:
        return type(self), (self.column, self.row, self.problem)


class IdTransform(Protocol):
    """Turns columns into ids of one feature."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        ...

    @property
    def valency(self) -> int:
        """Most ids a sample can have."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Ids are below this."""
        ...

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError if a column is missing or has a type this cannot read."""
        ...

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, valency]``; raises InvalidValue."""
        ...


class DenseTransform(Protocol):
    """Turns columns into one dense number per row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        ...

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError if a column is missing or has a type this cannot read."""
        ...

    def apply(self, table: pa.Table) -> np.ndarray:
        """float32 ``[rows]``; raises InvalidValue."""
        ...


@dataclass(frozen=True)
class Ids:
    """Integers that are ids already: 0 ≤ value < ``vocabulary_size``."""

    column: str
    vocabulary_size: int
    valency: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds integers."""
        _expect(schema, self.column, pa.types.is_integer, "integers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, 1]``."""
        values = _integers(_column(table, self.column), self.column)
        outside = (values < 0) | (values >= self.vocabulary_size)
        if outside.any():
            row = int(np.argmax(outside))
            raise InvalidValue(
                self.column,
                row,
                f"id {values[row]} is outside the vocabulary [0, {self.vocabulary_size}); raise "
                "the vocabulary or hash the column",
            )
        return values.astype(np.int32)[:, None]


@dataclass(frozen=True)
class Hashed:
    """Strings or integers of one or several columns, hashed together into ``buckets`` ids.

    Several columns make a cross: each distinct combination gets an id of its own, but for
    collisions, whose share is about (combinations / 2) / buckets.
    """

    columns: tuple[str, ...]
    buckets: int
    seed: int = 0
    valency: int = 1

    @property
    def vocabulary_size(self) -> int:
        """Ids are below the number of buckets."""
        return self.buckets

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless all columns hold strings or integers."""
        for column in self.columns:
            _expect(schema, column, _is_hashable, "strings or integers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, 1]``."""
        mixed = np.full(table.num_rows, np.uint64(self.seed), np.uint64)
        for column in self.columns:
            mixed = _mix(mixed * _GOLDEN + hash_values(_column(table, column), self.seed))
        return (mixed % np.uint64(self.buckets)).astype(np.int32)[:, None]


@dataclass(frozen=True)
class Buckets:
    """Numbers cut at ascending boundaries: id i where boundaries[i-1] ≤ value < boundaries[i]."""

    column: str
    boundaries: tuple[float, ...]
    valency: int = 1

    def __post_init__(self) -> None:
        if any(one >= other for one, other in pairwise(self.boundaries)):
            raise ProgramError(
                f"Buckets('{self.column}'): boundaries must ascend, got {self.boundaries}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    @property
    def vocabulary_size(self) -> int:
        """One more than the boundaries."""
        return len(self.boundaries) + 1

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds numbers."""
        _expect(schema, self.column, _is_number, "numbers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, 1]``."""
        values = _floats(_column(table, self.column), self.column)
        return np.searchsorted(self.boundaries, values, side="right").astype(np.int32)[:, None]


@dataclass(frozen=True)
class Tags:
    """A list of strings or integers per row, hashed into ``buckets`` ids.

    Lists may be empty; a list longer than ``valency`` is refused rather than cut.
    """

    column: str
    buckets: int
    valency: int
    seed: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    @property
    def vocabulary_size(self) -> int:
        """Ids are below the number of buckets."""
        return self.buckets

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds lists of strings or integers."""

        def suits(kind: pa.DataType) -> bool:
            lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            return lists and _is_hashable(kind.value_type)

        _expect(schema, self.column, suits, "lists of strings or integers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, valency]``, padded with ``PADDING_ID``."""
        column = _column(table, self.column)
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        if len(lengths) and lengths.max() > self.valency:
            row = int(np.argmax(lengths > self.valency))
            raise InvalidValue(
                self.column,
                row,
                f"{lengths[row]} values, but the feature's valency is {self.valency}; raise it",
            )
        values = lists.flatten()
        if values.null_count:
            flat = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
            row = int(np.searchsorted(np.cumsum(lengths), flat, side="right"))
            raise InvalidValue(self.column, row, "a null inside the list")
        hashed = _mix(hash_values(values, self.seed)) % np.uint64(self.buckets)
        ids = np.full((len(lengths), self.valency), PADDING_ID, np.int32)
        ids[np.arange(self.valency) < lengths[:, None]] = hashed.astype(np.int32)
        return ids


@dataclass(frozen=True)
class Number:
    """A number, standardised: (value - mean) / scale, after log(1 + value) where ``log``."""

    column: str
    mean: float = 0.0
    scale: float = 1.0
    log: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds numbers."""
        _expect(schema, self.column, _is_number, "numbers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """float32 ``[rows]``."""
        values = _floats(_column(table, self.column), self.column)
        if self.log:
            if len(values) and values.min() <= -1:
                row = int(np.argmax(values <= -1))
                raise InvalidValue(self.column, row, f"log(1 + {values[row]}) is not defined")
            values = np.log1p(values)
        return ((values - self.mean) / self.scale).astype(np.float32)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014), a bijection of 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_values(values: pa.Array | pa.ChunkedArray, seed: int = 0) -> np.ndarray:
    """64-bit hashes of strings or integers; the same on every machine and in every version.

    Integers go through SplitMix64; strings through BLAKE2b, once per distinct value.

    Returns:
        uint64 ``[n]``.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        plain = values.cast(kind) if pa.types.is_dictionary(values.type) else values
        numbers = (
            plain.to_numpy(zero_copy_only=False)
            if isinstance(plain, pa.Array)
            else (plain.to_numpy())
        )
        return _mix(numbers.astype(np.int64).view(np.uint64) + np.uint64(seed) * _GOLDEN)
    chunk = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if not pa.types.is_dictionary(chunk.type):
        chunk = chunk.dictionary_encode()
    key = seed.to_bytes(8, "little", signed=True)
    distinct = np.array(
        [
            int.from_bytes(
                hashlib.blake2b(value.encode(), digest_size=8, key=key).digest(), "little"
            )
            for value in chunk.dictionary.to_pylist()
        ],
        np.uint64,
    )
    return distinct[chunk.indices.to_numpy(zero_copy_only=False)]


def _is_hashable(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _expect(schema: pa.Schema, column: str, suits: object, wanted: str) -> None:
    index = schema.get_field_index(column)
    if index < 0:
        raise DataError(f"column '{column}' is missing; the data has {_listed(schema.names)}")
    kind = schema.field(index).type
    if not callable(suits) or not suits(kind):
        raise DataError(f"column '{column}' has type {kind}, but {wanted} are needed")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) if names else "no columns"


def _column(table: pa.Table, column: str) -> pa.ChunkedArray:
    values = table.column(column)
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy()))
        raise InvalidValue(column, row, "null; fill it, or leave the row out")
    return values


def _integers(values: pa.ChunkedArray, column: str) -> np.ndarray:
    numbers = values.to_numpy()
    if numbers.dtype == np.uint64 and len(numbers) and numbers.max() > np.iinfo(np.int64).max:
        row = int(np.argmax(numbers > np.iinfo(np.int64).max))
        raise InvalidValue(column, row, f"{numbers[row]} does not fit into 64 signed bits")
    return numbers.astype(np.int64)


def _floats(values: pa.ChunkedArray, column: str) -> np.ndarray:
    numbers = values.to_numpy().astype(np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidValue(column, row, f"{numbers[row]} is not a finite number")
    return numbers
