"""The part that all clients share which keep statistics in files of a common folder.

A process writes ``fdo_stats_<process>_<nanoseconds>.<extension>``; the newest file of every process
counts. A file holds arrays by key: the stack's name and a suffix that tells what was counted.
"""

from __future__ import annotations

import abc
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from kernels.errors import SpecError
from kernels.fdo.fdo_client import FDOClient
from kernels.preprocessing.format import SparseDenseMatmulInputStats

__all__ = ["STEM", "SUFFIXES", "StatisticsFilesClient"]

STEM = "fdo_stats"
"""What the name of every file begins with."""

SUFFIXES: Mapping[str, str] = {
    "max_ids_per_partition": "_max_ids",
    "max_unique_ids_per_partition": "_max_unique_ids",
    "required_buffer_size_per_sc": "_required_buffer_size",
    "id_drop_counters": "_id_drop_counters",
}
"""End of the key by field of `SparseDenseMatmulInputStats`; the same as in jax-tpu-embedding."""

type _Recorded = dict[str, dict[str, np.ndarray]]


class StatisticsFilesClient(FDOClient):
    """A client with files in a folder that all processes see.

    Statistics of several batches are kept as rows of one array, ``[batches, n]``, or with
    ``retain_history=False`` as their largest values, ``[n]``.
    """

    _EXTENSION: str

    def __init__(self, base_dir: str | os.PathLike[str], retain_history: bool = True) -> None:
        self._base_dir = Path(base_dir)
        self._retain_history = retain_history
        self._recorded: _Recorded = {field: {} for field in SUFFIXES}

    @abc.abstractmethod
    def _write(self, file: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays ``[n]`` or ``[batches, n]`` int64, by key."""

    @abc.abstractmethod
    def _read(self, file: Path) -> dict[str, np.ndarray]:
        """Read what `_write` wrote."""

    def record(self, data: SparseDenseMatmulInputStats) -> None:
        """Keep the statistics of a batch in this process.

        Raises:
            SpecError: If there are not as many values for a stack as in the batches before.
        """
        for field, by_stack in self._recorded.items():
            for stack, values in getattr(data, field).items():
                new = np.atleast_1d(np.asarray(values, dtype=np.int64))
                known = by_stack.get(stack)
                if known is not None:
                    new = _rows_of(f"statistics recorded of {field} of stack '{stack}'", known, new)
                    if not self._retain_history:
                        new = new.max(axis=0)
                by_stack[stack] = new

    def publish(self) -> None:
        """Write what has been recorded to a new file, which appears when it is complete."""
        self._base_dir.mkdir(parents=True, exist_ok=True)
        name = f"{STEM}_{jax.process_index()}_{time.time_ns()}.{self._EXTENSION}"
        unfinished = self._base_dir / f".{name}.unfinished"
        arrays = {
            f"{stack}{SUFFIXES[field]}": values
            for field, by_stack in self._recorded.items()
            for stack, values in by_stack.items()
        }
        self._write(unfinished, arrays)
        unfinished.replace(self._base_dir / name)

    def load(self) -> SparseDenseMatmulInputStats:
        """The largest values of the newest file of every process; of one process, all its rows.

        What this client records afterwards is added to them.

        Raises:
            FileNotFoundError: If nobody has published.
            SpecError: If a file holds something else, or files do not fit together.
        """
        found = [os.fspath(file) for file in self._base_dir.glob(f"{STEM}*.{self._EXTENSION}")]
        files = self._get_latest_files_by_process(found)
        if not files:
            raise FileNotFoundError(
                f"no statistics in {self._base_dir} ({STEM}_*.{self._EXTENSION}); let every "
                "process call publish() first"
            )
        merged: dict[str, np.ndarray] = {}
        for file in files:
            for key, values in self._read(Path(file)).items():
                if key in merged:
                    values = _rows_of(f"'{key}' of {file}", merged[key], values).max(axis=0)
                merged[key] = values
        self._recorded = _by_field(merged)
        return SparseDenseMatmulInputStats(**self._recorded)  # pyright: ignore[reportArgumentType]

    def _get_latest_files_by_process(self, files: Sequence[str]) -> list[str]:
        """The newest file of every process, the highest process first; other names are left out."""
        pattern = re.compile(rf"{STEM}_(\d+)_(\d+)\.{self._EXTENSION}")
        newest: dict[int, tuple[int, str]] = {}
        for file in files:
            if match := pattern.fullmatch(Path(file).name):
                process, moment = int(match[1]), int(match[2])
                newest[process] = max(newest.get(process, (-1, "")), (moment, file))
        return [newest[process][1] for process in sorted(newest, reverse=True)]


def _rows_of(what: str, known: np.ndarray, new: np.ndarray) -> np.ndarray:
    """``[rows, n]`` of both."""
    if known.shape[-1] != new.shape[-1]:
        raise SpecError(
            f"{what}: {new.shape[-1]} values, but {known.shape[-1]} before; use one folder for "
            "each number of devices"
        )
    return np.vstack((known, new))


def _by_field(arrays: Mapping[str, np.ndarray]) -> _Recorded:
    result: _Recorded = {field: {} for field in SUFFIXES}
    for key, values in arrays.items():
        field = next((f for f, suffix in SUFFIXES.items() if key.endswith(suffix)), None)
        if field is None:
            raise SpecError(
                f"Unexpected key: {key}, expected to end with {_listed(SUFFIXES.values())}; "
                "remove the file that holds it"
            )
        result[field][key.removesuffix(SUFFIXES[field])] = values
    return result


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
