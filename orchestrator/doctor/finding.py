"""One thing that is wrong with a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity", "listed"]

type Severity = Literal["error", "warning", "note"]
"""``error``: a run will fail or hang; ``warning``: it will be slow, or may fail; ``note``: only
worth knowing, nothing is wrong."""

_MOST_NAMES = 4


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    check: str
    """What was looked at, in a word or two."""
    severity: Severity
    """How much it matters."""
    nodes: tuple[str, ...]
    """Where; empty where it is about the cluster as a whole."""
    what: str
    """What is wrong, with the values."""
    remedy: str
    """What to do."""

    @property
    def words(self) -> str:
        """All of it in one sentence: place, trouble, remedy."""
        where = f" on {listed(self.nodes)}" if self.nodes else ""
        return f"{self.check}{where}: {self.what}; {self.remedy}"


def listed(names: Sequence[str]) -> str:
    """Names in a row, the first few of many.

    Example:
        >>> listed(["a", "b", "c", "d", "e", "f"])
        'a, b, c, d and 2 more'
    """
    more = len(names) - _MOST_NAMES
    shown = ", ".join(names[:_MOST_NAMES])
    return f"{shown} and {more} more" if more > 0 else shown
