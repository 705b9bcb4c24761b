"""Telling a storage without room from other failures of a save."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.errors import StorageFull

__all__ = ["room_wanted"]

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")
"""As the libraries that write checkpoints pass them on, in errors of their own."""


@contextmanager
def room_wanted(folder: Path) -> Iterator[None]:
    """Turn what a full disk raises within the block into an error of our own.

    Args:
        folder: Where checkpoints are written, for the message.

    Raises:
        StorageFull: There was no room.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        said = " ".join(str(error).split())[-300:]
        raise StorageFull(
            f"there is no room for a checkpoint in '{folder}': free some space, or keep fewer "
            f"(checkpoints.keep) ({said})"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in _NUMBERS or any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
