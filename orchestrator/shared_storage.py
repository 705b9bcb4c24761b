"""The driver's looks at the folder of checkpoints, on storage that may fail for a while.

Network storage answers with errors now and then: a stale handle after its server was started anew,
an I/O error while a connection is made again, a folder that is missing for a moment. None of these
says anything about the checkpoints. So a look is tried again, with growing pauses, for a bounded
time; and a folder that should be there and is not counts as an error, never as one without
checkpoints.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import StorageUnavailable

__all__ = ["SharedStorage", "storage_wanted"]

_LOGGER = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
"""Before the second try; each further pause is twice as long."""

LONGEST_PAUSE_SECONDS = 2.0
"""Before any try. A signal to stop is heeded after this long at the latest."""

_RESUME = "go on with --resume: committed checkpoints are left as they are"

_OF_STORAGE = {errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENODEV, errno.ENOTCONN}
"""Numbers of errors that only storage answers with, whichever file it was about."""


class SharedStorage:
    """Looks at a folder of checkpoints until the storage answers, for a bounded time.

    Args:
        folder: The folder.
        timeout: Seconds for which a look is tried again: ``failures.storage_timeout``.
        clock: Seconds, never going back.
        sleep: Waits for so many seconds.

    Example:
        >>> SharedStorage(Path("/"), timeout=60.0).free() > 0
        True
    """

    def __init__(
        self,
        folder: Path,
        timeout: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._leave_by: float | None = None

    def leave_within(self, seconds: float | None) -> None:
        """The driver must leave: wait no longer than this. Safe in a signal handler.

        Args:
            seconds: From now; None changes nothing.
        """
        if seconds is not None:
            self._leave_by = self._clock() + seconds

    def committed(self, *, made: bool = True) -> tuple[int, ...]:
        """Steps of the committed checkpoints, ascending.

        Args:
            made: Whether the folder has been made, so that it must be there.

        Raises:
            StorageUnavailable: It could not be listed in time.
        """
        from workers.checkpoint import committed_steps

        return self._asked("listed", lambda: committed_steps(self._folder, missing_ok=not made))

    def free(self) -> int:
        """Bytes that are free where checkpoints are written.

        Raises:
            StorageUnavailable: The storage did not tell in time.
        """
        return self._asked("asked for free space", lambda: shutil.disk_usage(self._folder).free)

    def _asked[T](self, what: str, look: Callable[[], T]) -> T:
        start, tries, pause = self._clock(), 0, FIRST_PAUSE_SECONDS
        while True:
            tries += 1
            try:
                found = look()
            except OSError as error:
                left = self._time_left(start)
                if left <= 0:
                    spent = self._clock() - start
                    raise _unavailable(
                        error,
                        self._folder,
                        f"{what} ({tries} tries in {spent:.0f} s; failures.storage_timeout is "
                        f"{self._timeout:g})",
                    ) from error
                if tries == 1:
                    _LOGGER.warning(
                        "'%s' could not be %s, which is tried again: %s", self._folder, what, error
                    )
                self._sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                if tries > 1:
                    spent = self._clock() - start
                    _LOGGER.warning("'%s' answers again after %.1f s", self._folder, spent)
                return found

    def _time_left(self, start: float) -> float:
        end = start + self._timeout
        return (end if self._leave_by is None else min(end, self._leave_by)) - self._clock()


@contextmanager
def storage_wanted(folder: Path, remedy: str = _RESUME) -> Iterator[None]:
    """Turn what storage answers with within the block into one error that says what to do.

    Args:
        folder: The run's folder. Errors about other files are let through, but for those that only
            storage answers with.
        remedy: What to do when the storage answers again.

    Raises:
        StorageUnavailable: A file of the run could not be used.
    """
    try:
        yield
    except OSError as error:
        name = error.filename
        if name is None and error.errno not in _OF_STORAGE:
            raise
        path = folder if name is None else Path(os.fsdecode(name))
        if not path.is_relative_to(folder) and error.errno not in _OF_STORAGE:
            raise
        raise _unavailable(error, path, "read or written", remedy) from error


def _unavailable(
    error: OSError, path: Path, what: str, remedy: str = _RESUME
) -> StorageUnavailable:
    number = error.errno or 0
    name = errno.errorcode.get(number, "no number")
    return StorageUnavailable(
        f"'{path}' could not be {what}: {error.strerror or error} ({name}); see to the storage, "
        f"its mount and its server, and {remedy}",
        path=str(error.filename or path),
        errno=number,
    )
