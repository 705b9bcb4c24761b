"""How much memory this process may still take, on the machine or in its container."""

from __future__ import annotations

from pathlib import Path

import psutil

__all__ = ["free_memory"]

_CGROUPS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Files with the limit and the use of a container's memory: of cgroups version 2, and 1."""


def free_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that are free, or taken only by copies of files.

    Args:
        root: Where Linux tells of this process's container; without one, the machine counts.
    """
    free = psutil.virtual_memory().available
    for folder in (root, root / "memory"):
        for limit, used in _CGROUPS:
            try:
                most, taken = int((folder / limit).read_text()), int((folder / used).read_text())
            except (OSError, ValueError):  # it has none, or its limit is "max"
                continue
            free = min(free, most - taken + _cached_files(folder / "memory.stat"))
    return max(0, free)


def _cached_files(statistics: Path) -> int:
    """Bytes of copies of files that the system would drop first."""
    try:
        lines = statistics.read_text().splitlines()
    except OSError:
        return 0
    numbers = {name: int(number) for name, _, number in (line.partition(" ") for line in lines)}
    return numbers.get("total_inactive_file", numbers.get("inactive_file", 0))
