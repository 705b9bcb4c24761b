"""A block of lines as a table, and which of them cannot be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv

__all__ = ["BadLine", "parse", "parse_good_lines"]

_UNIT_SEPARATOR = b"\x1f"
"""Stands for a delimiter of several characters, which the parser does not know."""


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be read.

    Attributes:
        line: Its number in the file, from 1.
        column: The column to blame; None where it is the line as a whole.
        problem: What is wrong.
        text: The line.
    """

    line: int
    column: str | None
    problem: str
    text: str


def parse(
    text: bytes,
    delimiter: str,
    quoted: bool,
    columns: Sequence[tuple[str, pa.DataType | None]],
    nulls: Sequence[str],
    *,
    skip_odd_lines: bool = False,
) -> pa.Table:
    """Lines as a table.

    Args:
        text: Whole lines, without a header.
        delimiter: Between two values.
        quoted: Whether values may stand in double quotes.
        columns: Names and types; a type of None is found from the values.
        nulls: Words that stand for no value.
        skip_odd_lines: Pass over lines with more or fewer values than there are columns.

    Raises:
        pa.ArrowInvalid: A line cannot be read.
    """
    if len(delimiter) > 1:
        text = text.replace(delimiter.encode(), _UNIT_SEPARATOR)
        delimiter = _UNIT_SEPARATOR.decode()
    types = {name: kind for name, kind in columns if kind is not None}
    if not text.strip(b"\r\n"):
        return pa.schema([(n, types.get(n, pa.null())) for n, _ in columns]).empty_table()
    return pyarrow.csv.read_csv(
        pa.BufferReader(text),
        read_options=pyarrow.csv.ReadOptions(column_names=[name for name, _ in columns]),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,
            invalid_row_handler=(lambda _: "skip") if skip_odd_lines else None,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types,
            null_values=list(nulls),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def parse_good_lines(
    text: bytes,
    line: int,
    delimiter: str,
    quoted: bool,
    columns: Sequence[tuple[str, pa.DataType]],
    nulls: Sequence[str],
    most: int,
) -> tuple[pa.Table, list[BadLine]]:
    """Lines as a table, leaving out those that cannot be read; stops after more than ``most``.

    What fails is cut in two and both halves are tried again, down to the line.

    Args:
        text: See ``parse``.
        line: Number of the first line.
        delimiter: See ``parse``.
        quoted: See ``parse``.
        columns: See ``parse``.
        nulls: See ``parse``.
        most: Most bad lines to look for.
    """
    places = _places(text, line, quoted)
    good: list[pa.Table] = [parse(b"", delimiter, quoted, columns, nulls)]
    bad: list[BadLine] = []
    waiting = [(0, len(places) - 1)]
    while waiting and len(bad) <= most:
        first, last = waiting.pop()
        piece = text[places[first][0] : places[last][0]]
        try:
            good.append(parse(piece, delimiter, quoted, columns, nulls))
        except pa.ArrowInvalid as error:
            if last - first == 1:
                bad.append(_bad_line(piece, places[first][1], columns, str(error)))
            else:
                middle = (first + last) // 2
                waiting += [(middle, last), (first, middle)]
    return pa.concat_tables(good), bad


def _places(text: bytes, line: int, quoted: bool) -> list[tuple[int, int]]:
    """Where each record begins, and its line; at last the end of the text."""
    places = [(0, line)]
    inside = False
    for found in re.finditer(rb'["\n]' if quoted else rb"\n", text):
        if found.group() == b'"':
            inside = not inside
            continue
        line += 1
        if not inside:
            places.append((found.end(), line))
    if places[-1][0] != len(text):
        places.append((len(text), line))
    return places


def _bad_line(
    text: bytes, line: int, columns: Sequence[tuple[str, pa.DataType]], problem: str
) -> BadLine:
    place = re.search(r"column #(\d+)", problem)
    column = columns[int(place.group(1))][0] if place else None
    shown = text.decode(errors="backslashreplace").rstrip("\r\n")
    # The parser counts rows of what it was given, which is this line alone.
    problem = re.sub(r"^(In )?CSV column #\d+: (Row #\d+: )?|(, )?Row #\d+:? ?", "", problem)
    return BadLine(line, column, problem.partition("\n")[0], shown)
