"""Telling a storage without room from other failures of a save."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernels.errors import EmberayError
from workers.errors import StorageFull

__all__ = ["room_wanted"]

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")
"""As the libraries that write checkpoints pass them on, in errors of their own."""


@contextmanager
def room_wanted(
    folder: Path,
    what: str = "a checkpoint",
    remedy: str = "free some space, or keep fewer (checkpoints.keep)",
) -> Iterator[None]:
    """Turn what a full disk raises within the block into an error of our own.

    Args:
        folder: Where files are written, for the message.
        what: What they are.
        remedy: What to do about it.

    Raises:
        StorageFull: There was no room.
    """
    try:
        yield
    except EmberayError:
        raise  # which says already what it is
    except Exception as error:
        if not _is_full(error):
            raise
        said = " ".join(str(error).split())[-300:]
        raise StorageFull(
            f"there is no room for {what} in '{folder}': {remedy} ({said})"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in _NUMBERS or any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
