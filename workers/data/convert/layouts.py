"""What the columns of a line are.

criteo     label, 13 integers, 26 hexadecimal words, by tabs: the layout of Criteo's click logs
           (Criteo Display Advertising Challenge, 2014; Criteo 1TB Click Logs), no header
ratings    user, item, rating and perhaps timestamp, by `::`, tabs or commas: the layouts of
           MovieLens (Harper and Konstan, "The MovieLens Datasets", 2015), header or not
csv        anything with a header, or columns that are named; types as the first block has them
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from workers.data.convert.parsing import parse
from workers.data.transforms.columns import is_number
from workers.errors import DataError

__all__ = ["KINDS", "Layout", "first_values", "layout_of", "type_named"]

KINDS = ("criteo", "ratings", "csv")

_CRITEO = (
    ("label", pa.int8()),
    *((f"I{n}", pa.int64()) for n in range(1, 14)),
    *((f"C{n}", pa.string()) for n in range(1, 27)),
)
_RATINGS = ("user", "item", "rating", "timestamp")


@dataclass(frozen=True)
class Layout:
    """How lines become columns.

    Attributes:
        delimiter: Between two values.
        header: Whether every file begins with a line of names.
        quoted: Whether values may stand in double quotes.
        columns: Names and types, in the order of the line.
        nulls: Words that stand for no value, the empty one among them.
        positive: Where given, a column ``label`` is added: 1 where ``rating`` is at least this.
    """

    delimiter: str
    header: bool
    quoted: bool
    columns: tuple[tuple[str, pa.DataType], ...]
    nulls: tuple[str, ...] = ("",)
    positive: float | None = None

    @property
    def schema(self) -> pa.Schema:
        """The columns of the output."""
        label = [] if self.positive is None else [("label", pa.int8())]
        return pa.schema([*self.columns, *label])


def layout_of(
    kind: str,
    head: bytes,
    *,
    where: str,
    delimiter: str | None = None,
    names: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    nulls: Sequence[str] = (),
    positive: float = 4.0,
) -> Layout:
    """The layout of files of a kind, from the first lines of the first.

    Args:
        kind: One of ``KINDS``.
        head: Whole lines.
        where: Names the file in errors.
        delimiter: Between two values; found from the first line by default.
        names: Names of the columns of a CSV file without a header.
        types: Types of some columns, by name; those of the others are found.
        nulls: Words that stand for no value, besides the empty one.
        positive: Of ratings: see ``Layout``.

    Raises:
        DataError: The lines are not of this kind, or a name or type is not known.
    """
    known = {name: type_named(name, word) for name, word in (types or {}).items()}
    empty = ("", *nulls)
    if kind == "criteo":
        layout = Layout(delimiter or "\t", False, False, _with_types(_CRITEO, known), empty)
    elif kind == "ratings":
        layout = _ratings(head, where, delimiter, known, empty, positive)
    else:
        layout = _csv(head, where, delimiter, tuple(names), known, empty)
    unknown = set(known) - {name for name, _ in layout.columns}
    if unknown:
        raise DataError(
            f"{where}: there is no column {sorted(unknown)}; there are "
            f"{', '.join(name for name, _ in layout.columns)}"
        )
    return layout


def type_named(column: str, word: str) -> pa.DataType:
    """The type with this name.

    Raises:
        DataError: There is none.
    """
    try:
        return pa.type_for_alias(word)
    except ValueError as error:
        raise DataError(
            f"column '{column}': there is no type '{word}'; give string, bool, int8 to int64, "
            "float32, float64 or another name of Arrow's"
        ) from error


def first_values(head: bytes, delimiter: str, quoted: bool) -> list[str]:
    """The values of the first line."""
    line = head.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").rstrip("\r")
    if not quoted:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter), [])


def _with_types(
    columns: Sequence[tuple[str, pa.DataType]], known: Mapping[str, pa.DataType]
) -> tuple[tuple[str, pa.DataType], ...]:
    return tuple((name, known.get(name, kind)) for name, kind in columns)


def _delimiter(head: bytes, choices: Sequence[str]) -> str:
    """The one that the first line has most of; the first choice where it has none."""
    line = head.split(b"\n", 1)[0].decode(errors="replace")
    return max(choices, key=lambda choice: line.count(choice) * len(choice))


def _ratings(
    head: bytes,
    where: str,
    delimiter: str | None,
    known: Mapping[str, pa.DataType],
    nulls: tuple[str, ...],
    positive: float,
) -> Layout:
    delimiter = delimiter or _delimiter(head, ("\t", "::", ","))
    quoted = delimiter == ","
    values = first_values(head, delimiter, quoted)
    if len(values) not in (3, 4):
        raise DataError(
            f"{where}: the first line has {len(values)} values, but a line of ratings has user, "
            "item, rating and perhaps timestamp; convert it as csv"
        )
    header = not _is_number(values[2])
    if header:
        named = len(values)
        values = first_values(head.partition(b"\n")[2], delimiter, quoted)
        if len(values) < 3:
            raise DataError(
                f"{where}: "
                + (
                    f"line 2 has {len(values)} values, but the header {named}"
                    if any(values)
                    else "no rows below the header"
                )
            )
    ids = [pa.int64() if value.isdecimal() else pa.string() for value in values[:2]]
    kinds = [*ids, pa.float32(), pa.int64()][: len(values)]
    columns = _with_types(list(zip(_RATINGS, kinds, strict=False)), known)
    if not is_number(columns[2][1]):
        raise DataError(
            f"{where}: column 'rating' is to be {columns[2][1]}; give a type of numbers"
        )
    return Layout(delimiter, header, quoted, columns, nulls, positive)


def _csv(
    head: bytes,
    where: str,
    delimiter: str | None,
    names: tuple[str, ...],
    known: Mapping[str, pa.DataType],
    nulls: tuple[str, ...],
) -> Layout:
    delimiter = delimiter or _delimiter(head, (",", "\t", ";", "|"))
    header = not names
    names = names or tuple(first_values(head, delimiter, True))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or "" in names:
        raise DataError(
            f"{where}: the first line is no header, as the name '{twice or ''}' is "
            f"{'there twice' if twice else 'empty'}; name the columns with --columns a,b,c"
        )
    lines = head.partition(b"\n")[2] if header else head
    columns = tuple((name, None) for name in names)
    found = parse(lines, delimiter, True, columns, nulls, skip_odd_lines=True).schema
    return Layout(
        delimiter,
        header,
        True,
        _with_types(
            [(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in found], known
        ),
        nulls,
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
