"""Memory that this process and its devices hold."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MemoryUse", "memory_in_use"]


@dataclass(frozen=True)
class MemoryUse:
    """Bytes at one moment."""

    process: int = 0
    """Resident memory of the process."""
    device: int = 0
    """Most that was ever in use on one of its devices; 0 where devices do not tell, as CPUs."""


def memory_in_use() -> MemoryUse:
    """What this process holds now, and its devices held at most."""
    import jax
    import psutil

    told = [device.memory_stats() or {} for device in jax.local_devices()]
    most = max((stats.get("peak_bytes_in_use", 0) for stats in told), default=0)
    return MemoryUse(psutil.Process().memory_info().rss, most)
