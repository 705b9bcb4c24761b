"""Figures with their units, and HTML out of plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["data_table", "duration", "element", "figure", "number", "percent", "size", "text"]


def text(value: object) -> str:
    """A value as HTML text: nothing in it is taken for markup."""
    return escape(str(value), quote=True)


def element(tag: str, content: str, **attributes: object) -> str:
    """An element with content that is HTML already.

    Example:
        >>> element("p", "a &lt; b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{given}>{content}</{tag}>"


def figure(value: float | None) -> str:
    """Four digits behind the point for what is below 10, as losses and AUC are; ``–`` for none.

    Example:
        >>> figure(0.76581), figure(12.5), figure(None)
        ('0.7658', '12.5', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def number(value: float | None) -> str:
    """A count, or three digits of what is no count.

    Example:
        >>> number(1234567), number(0.0125)
        ('1,234,567', '0.0125')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share in hundredths.

    Example:
        >>> percent(0.503), percent(0.0004)
        ('50.3 %', '< 0.1 %')
    """
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds in the units a person thinks in.

    Example:
        >>> duration(0.0123), duration(46.71), duration(3725)
        ('12.3 ms', '46.7 s', '1 h 02 min')
    """
    if 0 < seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds == int(seconds) else f"{seconds:.1f} s"
    if seconds < 3600:
        rest = int(seconds % 60)
        return f"{int(seconds // 60)} min" + (f" {rest:02d} s" if rest else "")
    if seconds < 48 * 3600:
        rest = int(seconds % 3600 // 60)
        return f"{int(seconds // 3600)} h" + (f" {rest:02d} min" if rest else "")
    return f"{int(seconds // 86400)} d {int(seconds % 86400 // 3600):02d} h"


def size(count: float) -> str:
    """Bytes in the unit that leaves at most four digits before the point.

    Example:
        >>> size(512), size(3 * 2**20)
        ('512 B', '3.0 MiB')
    """
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:,.1f} {unit}"
    return f"{count / 1024:,.1f} TiB"


def data_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, klass: str = ""
) -> str:
    """A table whose cells are HTML already.

    Args:
        header: Names of the columns; no line of them is made if all are empty.
        rows: Cells.
        words: So many columns at the left are words; those behind them are figures.
        klass: CSS class.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            element(tag, cell, class_=None if place < words else "figure")
            for place, cell in enumerate(row)
        )

    named = element("tr", cells("th", [text(name) for name in header]))
    head = element("thead", named) if any(header) else ""
    body = element("tbody", "".join(element("tr", cells("td", row)) for row in rows))
    table = element("table", head + body, class_=klass or None)
    return element("div", table, class_="scroll")
