"""Whether there is room for another checkpoint: told from what happened, as nobody knows its size.

A save that began with so many bytes free, and ran out of them, is not tried again until clearly
more are free. Until then training goes on without checkpoints.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from workers.errors import StorageFull
from workers.protocol import Lease

__all__ = ["Storage"]

MORE = 1.1
"""Times as many bytes must be free as were when a save failed."""


class Storage:
    """Remembers how much room was not enough.

    Args:
        free: Bytes that are free where checkpoints are written.

    Attributes:
        too_little: Free bytes that were not enough for a save; None if none ran out of them.

    Example:
        >>> storage = Storage(lambda: 1000)
        >>> storage.allow(Lease(0, "plan", 0, 8, save=True)).save
        True
        >>> storage.ran_out()
        >>> storage.has_room()
        False
    """

    def __init__(self, free: Callable[[], int]) -> None:
        self.too_little: int | None = None
        self._free = free
        # A failure shows when the next save may have begun already, in what the failed one left.
        self._at_begin: deque[int] = deque(maxlen=2)

    def allow(self, lease: Lease) -> Lease:
        """The lease that is about to be granted: without its save if there is no room for one."""
        if lease.save and not self.has_room():
            return replace(lease, save=False)
        if lease.save:
            self._at_begin.append(self._free())
        return lease

    def ran_out(self) -> None:
        """The save that was begun last, or the one before it, found no room."""
        self.too_little = max(self._at_begin, default=self._free())
        self._at_begin.clear()

    def has_room(self) -> bool:
        """Whether another save is worth a try."""
        return self.too_little is None or self._free() > MORE * self.too_little

    def words(self) -> str:
        """What is free, and what was not enough."""
        enough = "" if self.too_little is None else f", and {self.too_little:,} were not enough"
        return f"{self._free():,} bytes are free{enough}"

    def refusal(self, step: int) -> StorageFull:
        """The error of a run that must save this step, and cannot."""
        return StorageFull(
            f"the state of step {step} cannot be saved: {self.words()}; free some space where the "
            "run's folder is, and go on with --resume"
        )
