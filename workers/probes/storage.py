"""Whether this node can write to the run's folder and read the data: tried, not guessed."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from workers.errors import DataError
from workers.probes.deadline import within
from workers.probes.facts import FolderFacts

__all__ = ["existing", "look_at_data", "look_at_folder", "marked"]

_PREFIX = ".emberay-doctor-"
_LATE_SECONDS = 2.0
"""A network file system may show a new file that late."""


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return path if path.is_dir() or path == path.parent else existing(path.parent)


def marked(folder: Path) -> Path:
    """Put a file into a folder, by which other nodes tell that they see the same folder.

    Returns:
        The file, to be removed.

    Raises:
        OSError: The folder cannot be written to.
    """
    file = folder / f"{_PREFIX}{secrets.token_hex(8)}"
    file.write_text("Made by `python -m orchestrator doctor`; may be deleted.\n")
    return file


def look_at_folder(folder: str, marker: str | None, seconds: float) -> FolderFacts:
    """Look for the driver's file in a folder, write a file beside it, and remove that again.

    Args:
        folder: The folder.
        marker: Name of the driver's file; None where there is none to look for.
        seconds: Longest wait for the storage.
    """

    def look() -> FolderFacts:
        path = Path(folder)
        if not path.is_dir():
            return FolderFacts(folder, missing=True)
        shared = marker is None or _appears(path / marker)
        own = marked(path)
        try:
            with own.open("rb") as file:
                os.fsync(file.fileno())
        finally:
            own.unlink()
        return FolderFacts(folder, shared=shared, free_bytes=shutil.disk_usage(path).free)

    return _told(folder, seconds, look)


def look_at_data(data: str, seconds: float) -> FolderFacts:
    """List the files of the training split, and read the first bytes of one.

    Args:
        data: Path or address.
        seconds: Longest wait for the storage.
    """

    def look() -> FolderFacts:
        from workers.data.files import files_of, filesystem_of
        from workers.data.synthetic import is_synthetic

        if is_synthetic(data):
            return FolderFacts(data)
        try:
            _, files = files_of(data, "train")
        except DataError as error:
            return FolderFacts(data, missing=True, trouble=str(error))
        if not files:
            return FolderFacts(data, missing=True, trouble=f"data '{data}' has no files")
        filesystem, path = filesystem_of(files[0].file)
        with filesystem.open_input_file(path) as file:
            file.read(4)
        names = "\n".join(file.name for file in files)
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        return FolderFacts(data, files=len(files), digest=digest)

    return _told(data, seconds, look)


def _told(path: str, seconds: float, look: Callable[[], FolderFacts]) -> FolderFacts:
    try:
        return within(seconds, look)
    except TimeoutError:
        return FolderFacts(path, trouble=f"no answer within {seconds:g} s")
    except Exception as error:  # whatever a file system may say
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return FolderFacts(path, trouble=" ".join(reason.split()))


def _appears(file: Path) -> bool:
    deadline = time.monotonic() + _LATE_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
