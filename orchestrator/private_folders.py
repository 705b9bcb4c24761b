"""Folders of this user alone below /tmp, and the removal of those whose owner was killed.

    /tmp/emberay-<random>/owner    locked by the process that made the folder, while it lives
                          ...      what is in it

The system gives a lock back when its process ends, however that comes about. So whether an owner
lives is told by the lock, also where containers, whose processes' numbers mean nothing here, share
``/tmp``. Folders without such a file are never touched: somebody else may have made them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["private_folder", "remove_left_folders"]

_PARENT = Path("/tmp")
_PREFIX = "emberay-"
_OWNER = "owner"
_REMOVE_SECONDS = 3.0
"""Longest wait for a folder to be gone."""
_SWEEP_SECONDS = 3.0
"""Longest wait for folders that were left to be removed; the rest is for the next time."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that only this user may enter, removed at the end.

    Those that killed processes left are removed first. The path is short, as Ray makes paths of
    sockets of it, which may have 107 bytes.
    """
    remove_left_folders()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PARENT))
    lock = _own(folder)
    try:
        yield folder
    finally:
        deadline = time.monotonic() + _REMOVE_SECONDS
        shutil.rmtree(folder, ignore_errors=True)
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_left_folders(seconds: float = _SWEEP_SECONDS) -> None:
    """Remove the folders of owners that are dead, if no process is left that works in them.

    Args:
        seconds: Longest time to wait for it. What is not done by then goes on beside, and ends with
            this process; the next one finishes it.
    """
    sweep = threading.Thread(target=_sweep, name="left-folders", daemon=True)
    sweep.start()
    sweep.join(seconds)


def _sweep() -> None:
    used: str | None = None
    for folder in sorted(_PARENT.glob(f"{_PREFIX}*")):
        with suppress(OSError):
            lock = _lock_of_the_dead(folder)
            if lock is None:
                continue
            try:
                used = _words_of_processes() if used is None else used
                if str(folder) not in used:
                    _remove(folder)
            finally:
                os.close(lock)


def _own(folder: Path) -> int:
    """Lock the folder for this process; returns what holds the lock."""
    # Under its name only when it is locked, lest somebody takes it for that of a dead owner.
    draft = folder / f".{_OWNER}"
    lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, f"process {os.getpid()}\n".encode())
    draft.rename(folder / _OWNER)
    return lock


def _lock_of_the_dead(folder: Path) -> int | None:
    """The lock of a folder of this user whose owner is dead, now held here; else None."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return None
    try:
        lock = os.open(folder / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _words_of_processes() -> str:
    """The command lines of all processes: those of Ray name the folder they work in."""
    words = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words += process.cmdline()
    return "\n".join(words)


def _remove(folder: Path) -> None:
    """Remove a folder; its lock comes last, so that a removal that is cut short is finished."""
    for entry in folder.iterdir():
        if entry.name == _OWNER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink()
    if all(entry.name == _OWNER for entry in folder.iterdir()):
        (folder / _OWNER).unlink()
        folder.rmdir()
