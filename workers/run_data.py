"""The splits of a run's data as a host sees them: from the driver's index, or from the files."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from workers.data.dataset import Dataset
from workers.data.index import check_files, read_index
from workers.data.sources import open_dataset
from workers.planning import splits_of
from workers.protocol import Assignment, RunSpec

__all__ = ["RunData"]


class RunData:
    """Opens the splits of a run, without reading every file's footer where that can be had.

    Args:
        run: The run.
        columns: Columns that the program reads.
        assignment: The host's place, so that it looks into some of the files; None looks into none.
    """

    def __init__(
        self, run: RunSpec, columns: Collection[str], assignment: Assignment | None = None
    ) -> None:
        self._run = run
        self._columns = columns
        self._assignment = assignment

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits.

        Raises:
            DataError: The data cannot be used; see also ``workers.data.index.check_files``.
        """
        if self._indexed is not None:
            return tuple(self._indexed)
        return splits_of(self._run.data, self._run.holdout)

    def open(self, split: str) -> Dataset:
        """The row groups of a split.

        Raises:
            DataError: Likewise.
        """
        if self._indexed is not None:
            return self._indexed[split]
        return open_dataset(self._run.data, split, self._columns, self._run.holdout)

    @cached_property
    def _indexed(self) -> dict[str, Dataset] | None:
        run = self._run
        found = read_index(Path(run.run_folder), run.data_index, run.holdout)
        if found is not None and self._assignment is not None:
            check_files(found, self._assignment.rank, self._assignment.hosts)
        return found
