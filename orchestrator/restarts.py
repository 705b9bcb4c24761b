"""How often the hosts were started anew, and whether the run gets on in between."""

from __future__ import annotations

__all__ = ["Restarts"]


class Restarts:
    """Counts recoveries.

    Args:
        total: Recoveries under earlier drivers of the run.

    Attributes:
        total: Recoveries in the whole life of the run, whatever their cause.
        in_a_row: Failures without a step further between them, the newest included.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.in_a_row = 0
        self._furthest = -1

    def note_failure(self, furthest: int) -> int:
        """A host was lost.

        Args:
            furthest: Most steps that were ever done.

        Returns:
            The failures in a row now.
        """
        self.in_a_row = 1 if furthest > self._furthest else self.in_a_row + 1
        self._furthest = furthest
        return self.in_a_row
