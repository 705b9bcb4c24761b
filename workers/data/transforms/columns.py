"""Reading columns: types, nulls and numbers, the same way in all transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from workers.data.transforms.base import PADDING_ID, InvalidValue, Missing
from workers.errors import DataError, ProgramError

__all__ = [
    "MOST_ROWS",
    "check_choice",
    "check_missing",
    "check_whole",
    "column_of",
    "expect",
    "floats",
    "integers",
    "is_hashable",
    "is_list",
    "is_number",
    "is_text",
    "mark_missing",
    "null_mask",
    "plain",
    "rows_with_missing",
]

MOST_ROWS = 2**31 - 1
"""Most rows of a table: ids are int32."""

type Column = pa.Array | pa.ChunkedArray


def check_whole(where: str, name: str, value: Any, least: int = 1, most: int = MOST_ROWS) -> None:
    """Raise ProgramError unless ``value`` is a whole number in [least, most]."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and value > most == MOST_ROWS:
        raise ProgramError(
            f"{where}: {name} is {value}; row ids are 32-bit numbers, so {MOST_ROWS} is the most: "
            "hash into fewer rows"
        )
    if not whole or not least <= value <= most:
        raise ProgramError(
            f"{where}: {name} is {value!r}; give a whole number from {least} to {most}"
        )


def check_choice(where: str, name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ProgramError unless ``value`` is one of the choices."""
    if value not in choices:
        raise ProgramError(f"{where}: {name} is {value!r}; give {' or '.join(map(repr, choices))}")


def check_missing(where: str, missing: Any) -> None:
    """Raise ProgramError unless ``missing`` is a choice of `Missing`."""
    check_choice(where, "missing", missing, get_args(Missing.__value__))


def rows_with_missing(rows: int, missing: Missing) -> int:
    """Size of a vocabulary with the row that nulls have of their own, if they have one."""
    return rows + (missing == "own")


def mark_missing(
    ids: np.ndarray, nulls: np.ndarray | None, missing: Missing, rows: int
) -> np.ndarray:
    """Write the id that stands for nulls, in place; returns ``ids``."""
    if nulls is not None:
        ids[nulls] = rows if missing == "own" else PADDING_ID
    return ids


def expect(
    schema: pa.Schema, column: str, suits: Callable[[pa.DataType], bool], wanted: str
) -> None:
    """Raise DataError unless the column is there and its type suits."""
    index = schema.get_field_index(column)
    if index < 0:
        raise DataError(f"column '{column}' is missing; the data has {_listed(schema.names)}")
    kind = schema.field(index).type
    if not suits(kind):
        raise DataError(f"column '{column}' has type {kind}, but {wanted} are needed")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) if names else "no columns"


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary-encoded column; any other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether values are strings or bytes."""
    kind = plain(kind)
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or kind in (pa.string_view(), pa.binary_view())
    )


def is_hashable(kind: pa.DataType) -> bool:
    """Whether values are strings, bytes or integers."""
    return is_text(kind) or pa.types.is_integer(plain(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether values are integers, floats, decimals or booleans (0 and 1)."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists."""
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def null_mask(values: Column) -> np.ndarray:
    """Where the nulls are, bool ``[n]``."""
    mask = values.is_null()
    return mask.to_numpy() if isinstance(mask, pa.ChunkedArray) else mask.to_numpy(False)


def column_of(
    table: pa.Table, column: str, *, takes_nulls: bool = False
) -> tuple[pa.ChunkedArray, np.ndarray | None]:
    """A column and where its nulls are (None: it has none).

    Raises:
        InvalidValue: It has nulls, which may not be.
    """
    values = table.column(column)
    # A dictionary-encoded value may also be null in the dictionary, which no count tells of.
    encoded = pa.types.is_dictionary(values.type)
    if encoded and any(chunk.dictionary.null_count for chunk in values.chunks):
        values = values.cast(values.type.value_type)
    if not values.null_count:
        return values, None
    nulls = null_mask(values)
    if not takes_nulls:
        row = int(np.argmax(nulls))
        raise InvalidValue(column, row, "null; fill it, or leave the row out")
    return values, nulls


def _numpy(values: Column, filler: float) -> np.ndarray:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    if values.null_count:
        values = values.fill_null(pa.scalar(filler, values.type))
    return values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(False)


def integers(values: Column, column: str) -> np.ndarray:
    """int64 ``[n]``; nulls are 0.

    Raises:
        InvalidValue: An unsigned value does not fit.
    """
    numbers = _numpy(values, 0)
    if numbers.dtype == np.uint64 and len(numbers) and numbers.max() > np.iinfo(np.int64).max:
        row = int(np.argmax(numbers > np.iinfo(np.int64).max))
        raise InvalidValue(column, row, f"{numbers[row]} does not fit into 64 signed bits")
    return numbers.astype(np.int64, copy=False)


def floats(
    values: Column,
    column: str,
    nulls: np.ndarray | None,
    *,
    takes_nulls: bool,
    clip: tuple[float | None, float | None] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """float64 ``[n]``, and where a number is missing (None: nowhere); 0 stands there.

    NaN is a missing number where nulls are taken. Values are clipped to ``clip``, if it is given.

    Raises:
        InvalidValue: A number is not finite.
    """
    numbers = _numpy(values, 0).astype(np.float64)
    if takes_nulls:
        absent = np.isnan(numbers)
        if absent.any():
            numbers[absent] = 0
            nulls = absent if nulls is None else nulls | absent
    if clip is not None:
        np.clip(numbers, *clip, out=numbers)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidValue(column, row, f"{numbers[row]} is not a finite number")
    return numbers, nulls
