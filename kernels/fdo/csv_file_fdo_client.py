"""An FDO client with CSV files, to be read by people and spreadsheets."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kernels.errors import SpecError
from kernels.fdo.statistics_files import StatisticsFilesClient

__all__ = ["CSVFileFDOClient"]


class CSVFileFDOClient(StatisticsFilesClient):
    """Keeps statistics in CSV files of a folder: see `FDOClient` for an example.

    A line holds a key and its values, separated by blanks; with history, a line for every batch.
    Files of jax-tpu-embedding's client of this name can be read, and the other way round.

    Args:
        base_dir: The folder, seen by all processes. It is made if it is missing.
        retain_history: Keep the values of every batch, not only the largest.
    """

    _EXTENSION = "csv"

    def __init__(self, base_dir: str | os.PathLike[str], retain_history: bool = True) -> None:
        super().__init__(base_dir, retain_history)

    def _write(self, file: Path, arrays: Mapping[str, np.ndarray]) -> None:
        with file.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["key", "values"])
            for key, values in arrays.items():
                for row in np.atleast_2d(values):
                    writer.writerow([key, " ".join(map(str, row.tolist()))])

    def _read(self, file: Path) -> dict[str, np.ndarray]:
        rows: dict[str, list[list[int]]] = defaultdict(list)
        with file.open(newline="") as lines:
            for number, line in enumerate(csv.reader(lines), start=1):
                if number == 1 or not line:
                    continue
                try:
                    key, values = line
                    rows[key].append([int(value) for value in values.split()])
                except ValueError as error:
                    raise SpecError(
                        f"{file}, line {number}: {line!r} is not a key and whole numbers; "
                        "correct the line or remove the file"
                    ) from error
        try:
            arrays = {key: np.array(values, dtype=np.int64) for key, values in rows.items()}
        except ValueError as error:
            raise SpecError(
                f"{file}: lines of one key differ in length; remove the file"
            ) from error
        return {key: array[0] if len(array) == 1 else array for key, array in arrays.items()}
