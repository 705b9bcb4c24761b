"""Charts as SVG: lines over steps, and bands of shares over time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.report.curves import Curve
from orchestrator.report.words import element, figure, size, text

__all__ = [
    "COLOURS",
    "BandMark",
    "LineChart",
    "band_chart",
    "line_chart",
    "size_ticks",
    "ticks",
    "time_ticks",
]

WIDTH, HEIGHT = 520, 230
BAND_WIDTH, BAND_HEIGHT = 1080, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 10, 36
_LABEL, _LABEL_ROWS = 17, 8
"""Size of a label on the band, and how many may stand one below the other."""
COLOURS = 8
"""Colours of lines in the style sheet: ``--line-0`` and on."""


@dataclass(frozen=True)
class LineChart:
    """Curves over steps.

    Attributes:
        title: Above it.
        curves: What is drawn; one with a single point becomes a dot.
        colours: Number of the colour of each curve; by default they are counted.
        words: Writes a value of the vertical axis, with its unit.
        references: (value, name) of dashed lines across.
        dots: Whether every point is marked.
        zero: Whether the vertical axis begins at 0.
        note: A line below the title.
        across: Name of the horizontal axis.
    """

    title: str
    curves: Sequence[Curve]
    colours: Sequence[int] = ()
    words: Callable[[float], str] = figure
    references: Sequence[tuple[float, str]] = field(default=())
    dots: bool = False
    zero: bool = False
    note: str = ""
    across: str = "steps done"


_NICE_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAY = 86400


def time_ticks(end: float, count: int = 10) -> list[float]:
    """Round times from 0 to ``end`` seconds, about ``count``.

    Example:
        >>> time_ticks(95.0)
        [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    """
    least = end / count
    days = max(1, round(least / _DAY)) * _DAY
    step = next((nice for nice in _NICE_SECONDS if nice >= least), days)
    return [step * number for number in range(int(end / step) + 1)]


def size_ticks(end: float, count: int = 4) -> list[float]:
    """Round numbers of bytes from 0 to ``end``, about ``count``."""
    unit = 1024 ** int(math.log(max(end, 1.0), 1024))
    return [unit * value for value in ticks(0.0, end / unit, count)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values from ``low`` to ``high``, about ``count``.

    Example:
        >>> ticks(0.0, 578.0)
        [0.0, 100.0, 200.0, 300.0, 400.0, 500.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(first, last + 1)]


def line_chart(chart: LineChart) -> str:
    """A figure with a title, a legend where there are several curves, and a tip under the mouse."""
    curves = [curve for curve in chart.curves if curve.points]
    if not curves:
        return ""
    colours = chart.colours or range(len(chart.curves))
    drawn = [
        (curve, f"var(--line-{colour % COLOURS})")
        for curve, colour in zip(chart.curves, colours, strict=True)
        if curve.points
    ]
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points] + [v for v, _ in chart.references]
    x_low, x_high = 0.0, max(xs) or 1.0
    y_low, y_high = _y_range(ys, chart.zero)
    if not chart.zero:
        y_high = min(y_high, _without_start(curves))

    def at(x: float, y: float) -> str:
        return f"{_x(x, x_low, x_high, WIDTH):.1f},{_y(y, y_low, y_high):.1f}"

    across = [(x, f"{x:,.0f}") for x in ticks(x_low, x_high, 6)]
    if chart.words is size:
        up = [(y, size(y)) for y in size_ticks(y_high)]
    else:
        up = _worded(ticks(y_low, y_high, 4))
    parts = [_axes((x_low, x_high), (y_low, y_high), across, up, chart.across)]
    clip = f'clip-path="inset({_TOP}px {_RIGHT}px {_BOTTOM}px {_LEFT}px) view-box"'
    for curve, colour in drawn:
        if curve.spread:
            upper = [at(x, high) for x, _, high in curve.spread]
            lower = [at(x, low) for x, low, _ in reversed(curve.spread)]
            outline = " ".join([*upper, *lower])
            parts.append(f'<polygon points="{outline}" fill="{colour}" class="spread" {clip}/>')
    for value, name in chart.references:
        y = _y(value, y_low, y_high)
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="mark"/>'
            f'<text x="{WIDTH - _RIGHT - 4}" y="{y + 13:.1f}" text-anchor="end">{text(name)}</text>'
        )
    for curve, colour in drawn:
        path = " ".join(at(x, y) for x, y in curve.points)
        parts.append(f'<polyline points="{path}" stroke="{colour}" class="curve" {clip}/>')
        if chart.dots or len(curve.points) == 1:
            parts.extend(
                f'<circle cx="{place.split(",")[0]}" cy="{place.split(",")[1]}" r="3" '
                f'fill="{colour}"/>'
                for place in path.split()
            )
    shown = {
        "box": [_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM],
        "x": [x_low, x_high],
        "across": chart.across.partition(" (")[0],
        "lines": [
            {
                "name": curve.name,
                "colour": colour,
                "points": [[x, y, chart.words(y)] for x, y in curve.points],
            }
            for curve, colour in drawn
        ],
    }
    svg = _svg("".join(parts), WIDTH, HEIGHT, chart.title, "lines", shown)
    return element(
        "figure",
        element("figcaption", element("b", text(chart.title)) + _note(chart.note))
        + (_legend(drawn) if len(drawn) > 1 else "")
        + svg,
    )


@dataclass(frozen=True)
class BandMark:
    """A moment on a band chart."""

    at: float
    label: str
    """A few characters at the top."""
    words: str
    """Told under the mouse."""


def band_chart(
    title: str,
    parts: Sequence[dict[str, float]],
    kinds: Sequence[str],
    end: float,
    marks: Sequence[BandMark],
    words: Callable[[float], str],
) -> str:
    """Shares of kinds over time, stacked; every kind has a colour ``--kind-<name>``.

    Args:
        title: For those who cannot see it.
        parts: Shares by kind in equal parts of the time.
        kinds: From the bottom to the top.
        end: Seconds of all parts together.
        marks: Moments.
        words: Writes a time.
    """
    width = end / len(parts) if parts else 1.0
    below = [0.0] * len(parts)
    across = [(x, words(x)) for x in time_ticks(end)]
    up = [(share / 4, f"{25 * share} %") for share in range(5)]
    drawn = [_axes((0.0, end), (0.0, 1.0), across, up, "time since the run began", BAND_WIDTH)]
    for kind in kinds:
        if not any(part.get(kind) for part in parts):
            continue
        upper, lower = [], []
        for place, part in enumerate(parts):
            top = below[place] + part.get(kind, 0.0)
            for x in (place * width, (place + 1) * width):
                across = f"{_x(x, 0.0, end, BAND_WIDTH):.1f}"
                upper.append(f"{across},{_y(min(1.0, top), 0.0, 1.0):.1f}")
                lower.append(f"{across},{_y(min(1.0, below[place]), 0.0, 1.0):.1f}")
            below[place] = top
        outline = " ".join([*upper, *reversed(lower)])
        drawn.append(f'<polygon points="{outline}" fill="var(--kind-{kind})"/>')
    drawn += _moments(marks, end)
    shown = {
        "box": [_LEFT, _TOP, BAND_WIDTH - _RIGHT, BAND_HEIGHT - _BOTTOM],
        "end": end,
        "kinds": list(kinds),
        "parts": [[round(part.get(kind, 0.0), 3) for kind in kinds] for part in parts],
    }
    return _svg("".join(drawn), BAND_WIDTH, BAND_HEIGHT, title, "band", shown)


def _moments(marks: Sequence[BandMark], end: float) -> list[str]:
    """A line and a label for each; labels that would lie over one another go below."""
    drawn: list[str] = []
    taken = [-math.inf] * _LABEL_ROWS
    for mark in sorted(marks, key=lambda mark: mark.at):
        x = _x(mark.at, 0.0, end, BAND_WIDTH)
        row = next((r for r, last in enumerate(taken) if x - last >= _LABEL), 0)
        taken[row] = x
        y = _TOP + 6 + row * _LABEL
        drawn.append(
            f'<g class="moment"><title>{text(mark.words)}</title>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{BAND_HEIGHT - _BOTTOM}"/>'
            f'<circle cx="{x:.1f}" cy="{y}" r="8"/>'
            f'<text x="{x:.1f}" y="{y + 4}" text-anchor="middle">{text(mark.label)}</text></g>'
        )
    return drawn


def _x(value: float, low: float, high: float, width: int) -> float:
    return _LEFT + (value - low) / (high - low or 1.0) * (width - _LEFT - _RIGHT)


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low or 1.0)
    return HEIGHT - _BOTTOM - min(2.0, max(-1.0, share)) * (HEIGHT - _TOP - _BOTTOM)


def _y_range(values: Sequence[float], zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if zero:
        return 0.0, high * 1.06 or 1.0
    room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _worded(values: Sequence[float]) -> list[tuple[float, str]]:
    """Ticks with as many digits behind the point as tell them apart."""
    step = values[1] - values[0] if len(values) > 1 else abs(values[0]) or 1.0
    digits = next((d for d in range(12) if abs(round(step, d) - step) < 1e-6 * step), 12)
    return [(value, f"{value:,.{digits}f}") for value in values]


def _without_start(curves: Sequence[Curve]) -> float:
    """Where the vertical axis may end, so that the first steps do not flatten all that follows."""
    later = [y for curve in curves for _, y in curve.points[len(curve.points) // 20 :]]
    low, high = min(later), max(later)
    return high + 0.5 * (high - low) if high > low else math.inf


def _axes(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    across: Sequence[tuple[float, str]],
    up: Sequence[tuple[float, str]],
    name: str,
    width: int = WIDTH,
) -> str:
    """Grid, values with their words, and the name of the horizontal axis."""
    bottom = HEIGHT - _BOTTOM
    parts = []
    for value, words in up:
        y = _y(value, *y_range)
        parts.append(
            f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text(words)}</text>'
        )
    for value, words in across:
        x = _x(value, *x_range, width)
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text(words)}</text>'
        )
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{name}</text>')
    parts.append(f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    return element("g", "".join(parts), class_="axes")


def _legend(drawn: Sequence[tuple[Curve, str]]) -> str:
    return element(
        "div",
        "".join(
            element("span", f'<i style="background:{colour}"></i>{text(curve.name)}')
            for curve, colour in drawn
        ),
        class_="legend",
    )


def _note(note: str) -> str:
    return element("small", text(note)) if note else ""


def _svg(content: str, width: int, height: int, title: str, kind: str, shown: object) -> str:
    return element(
        "svg",
        content,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
        class_=f"chart {kind}",
        data_shown=json.dumps(shown, separators=(",", ":"), allow_nan=False),
    )
