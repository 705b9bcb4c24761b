"""Bad rows that a run may leave out, up to a bound; each is written down beside the run.

A quarantined row keeps its place in the order of the data and has weight 0: no other row moves, and
the number of steps stays the same. What is bad in a row group depends on the data alone, so every
host that reads it writes the same file, and the files together are the count: over all hosts,
restarts and resumptions of a run.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from workers.data.examples import Examples, Schema
from workers.data.transforms import InvalidValue
from workers.errors import DataError
from workers.redaction import hide_addresses

__all__ = [
    "BadRow",
    "Quarantine",
    "apply_to_good_rows",
    "quarantine_of",
    "quarantined_rows",
]


@dataclass(frozen=True)
class BadRow:
    """What is wrong with a row, or with a whole row group.

    Attributes:
        row: Row within its row group; None where all of them are lost.
        column: The column that is to blame; None likewise.
        problem: What is wrong.
        rows: How many rows it costs.
        values: The row as it is in the file, in the columns the program reads.
    """

    row: int | None
    column: str | None
    problem: str
    rows: int = 1
    values: Any = None


def apply_to_good_rows(schema: Schema, table: pa.Table, most: int) -> tuple[Examples, list[BadRow]]:
    """Transform a table, leaving out the rows that cannot be.

    A row that fails cuts the table at itself and what is left at its middle, and the parts are
    tried again. So each row is transformed at most log2(rows) times more than without bad rows.

    Args:
        schema: How columns become examples.
        table: The rows.
        most: Stop at more bad rows than this.

    Returns:
        All examples, the bad ones as padding (weight 0), and what is wrong with those.
    """
    try:
        return schema.apply(table), []
    except InvalidValue as error:
        first = error
    result, bad = schema.empty(table.num_rows), []
    waiting = _note(first, table, 0, table.num_rows, bad)
    while waiting and len(bad) <= most:
        begin, end = waiting.pop()
        try:
            part = schema.apply(table.slice(begin, end - begin))
        except InvalidValue as error:
            waiting += _note(error, table, begin, end, bad)
            continue
        result.put(np.arange(begin, end), part, np.arange(end - begin))
    return result, sorted(bad, key=lambda row: row.row or 0)


def _note(
    error: InvalidValue, table: pa.Table, begin: int, end: int, bad: list[BadRow]
) -> list[tuple[int, int]]:
    """Add the bad row; returns the parts of [begin, end) that are left."""
    row = begin + error.row
    values = table.slice(row, 1).to_pylist()[0]
    bad.append(BadRow(row, error.column, error.problem, values=values))
    middle = (begin + end) // 2
    cuts = sorted({begin, min(row, middle), max(row, middle), end} | {row, row + 1})
    return [(low, high) for low, high in pairwise(cuts) if low < high and low != row]


class Quarantine:
    """Where the bad rows of a run go.

    Args:
        folder: Folder for them, the same for all hosts; made when the first comes.
        most: Most rows it may hold.

    Example:
        >>> quarantine = Quarantine(Path("runs/a/quarantine"), most=100)  # doctest: +SKIP
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most

    def add(
        self, file: str, row_group: int, bad: Iterable[BadRow], split: str | None = None
    ) -> None:
        """Write down what is bad in a row group, in place of what was written of it before.

        Args:
            file: The file.
            row_group: Its row group.
            bad: The bad rows.
            split: The split whose rows these are, where a row group has rows of several.

        Raises:
            DataError: More rows than ``most`` have been found bad, over all hosts.
        """
        rows = list(bad)
        lines = [
            json.dumps(
                {
                    "file": hide_addresses(file),
                    "row_group": row_group,
                    "row": row.row,
                    "column": row.column,
                    "problem": row.problem,
                    "rows": row.rows,
                    "values": row.values,
                },
                default=str,
            )
            + "\n"
            for row in rows
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / _name_for(file, row_group, split)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(target)
        found = quarantined_rows(self.folder)
        if found > self.most:
            last = rows[-1]
            place = "" if last.row is None else f", row {last.row}, column '{last.column}'"
            raise DataError(
                f"{found} rows are bad, but quarantine={self.most} allows no more; one "
                f"of them: file '{file}', row group {row_group}{place}: {last.problem}; all are in "
                f"'{self.folder}': mend the data, or raise quarantine"
            )


def quarantine_of(run_folder: str | Path, most: int) -> Quarantine | None:
    """The quarantine of a run; None where it may leave out no row."""
    return Quarantine(Path(run_folder) / "quarantine", most) if most else None


def quarantined_rows(folder: Path) -> int:
    """How many rows a quarantine's folder holds; 0 where there is none."""
    return sum(
        json.loads(line)["rows"]
        for file in folder.glob("[!.]*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    )


def _name_for(file: str, row_group: int, split: str | None) -> str:
    """A file name of a row group's own, which a person can read too."""
    readable = re.sub(r"[^\w.=-]+", "_", file.rpartition("/")[2])[:100]
    digest = hashlib.sha256(file.encode()).hexdigest()[:8]
    return f"{readable}-{digest}-{row_group}{f'-{split}' if split else ''}.jsonl"
