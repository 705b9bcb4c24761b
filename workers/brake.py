"""How all hosts end a lease at the same step before its end, when there is no time to finish it.

An evaluation is ended in the same way: its number stands for the lease's, and its own steps count.

A host must not stop alone: the others would wait for it in their next collective. So the driver
asks in two rounds, beside the command that runs:

1. hold: each host starts no further step, and answers how many steps it has begun;
2. release: all are told the largest of these numbers, run up to it, and end the lease there.

A host that has begun step n waits in it for the others, so whoever is behind must catch up; and
nobody is further ahead than the largest number. Between the rounds nothing runs that could fail.
"""

from __future__ import annotations

import threading

__all__ = ["Brake"]

RELEASE_SECONDS = 60.0
"""Longest wait of a host between the two rounds."""


class Brake:
    """One host's side; ``may_run`` on the thread that trains, the others on any thread."""

    def __init__(self, release_seconds: float = RELEASE_SECONDS) -> None:
        self._release_seconds = release_seconds
        self._changed = threading.Condition()
        self._lease = -1
        self._held: int | None = None
        self._begun = 0
        self._last: int | None = None

    def begin(self, lease: int, first: int) -> None:
        """A lease begins at a step."""
        with self._changed:
            self._lease, self._begun = lease, first

    def may_run(self, step: int) -> bool:
        """Whether the lease's next step is to be run; waits while the host is held.

        Args:
            step: The step to run next.

        Raises:
            TimeoutError: It was held, and then not told where to end.
        """
        with self._changed:
            if self._held == self._lease:
                waited = self._changed.wait_for(
                    lambda: self._last is not None, self._release_seconds
                )
                if not waited or self._last is None:
                    raise TimeoutError(
                        f"held before step {step}, and not told within "
                        f"{self._release_seconds:.0f} s where to end the lease"
                    )
                return step < self._last
            self._begun = step + 1
            return True

    def hold(self, lease: int) -> int:
        """Begin no further step of a lease.

        Args:
            lease: Number of the lease, which may not have begun yet.

        Returns:
            Steps of the run that this host has begun; 0 if the lease has not begun.
        """
        with self._changed:
            self._held, self._last = lease, None
            return self._begun if self._lease == lease else 0

    def release(self, lease: int, last: int) -> None:
        """Run the lease that is held up to this step, and end it there."""
        with self._changed:
            if self._held == lease:
                self._last = last
                self._changed.notify_all()
