"""An FDO client with NumPy's ``.npz`` files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kernels.errors import SpecError
from kernels.fdo.statistics_files import StatisticsFilesClient

__all__ = ["NPZFileFDOClient"]


class NPZFileFDOClient(StatisticsFilesClient):
    """Keeps statistics in ``.npz`` files of a folder: see `FDOClient` for an example.

    Files of jax-tpu-embedding's client of this name can be read, and the other way round.

    Args:
        base_dir: The folder, seen by all processes. It is made if it is missing.
    """

    _EXTENSION = "npz"

    def __init__(self, base_dir: str | os.PathLike[str]) -> None:
        super().__init__(base_dir)

    def _write(self, file: Path, arrays: Mapping[str, np.ndarray]) -> None:
        with file.open("wb") as out:
            np.savez(out, **dict(arrays))  # pyright: ignore[reportArgumentType]

    def _read(self, file: Path) -> dict[str, np.ndarray]:
        try:
            with np.load(file) as loaded:
                return {key: np.atleast_1d(loaded[key]) for key in loaded.files}
        except (ValueError, zipfile.BadZipFile, EOFError) as error:
            raise SpecError(f"{file} holds no statistics ({error}); remove it") from error
