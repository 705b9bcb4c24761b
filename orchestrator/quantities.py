"""Bytes and seconds in words, in the unit that suits them."""

from __future__ import annotations

__all__ = ["seconds_text", "size_text"]


def size_text(count: float) -> str:
    """Bytes in the unit that leaves at most four digits before the point.

    Example:
        >>> size_text(512), size_text(3 * 2**20), size_text(5 * 2**40)
        ('512 B', '3.0 MiB', '5,120.0 GiB')
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def seconds_text(seconds: float) -> str:
    """Seconds as µs, ms or s, with three digits.

    Example:
        >>> seconds_text(0.0000123), seconds_text(0.0042), seconds_text(61)
        ('12.3 µs', '4.2 ms', '61 s')
    """
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        if seconds * scale < 1000:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
