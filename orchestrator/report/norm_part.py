"""The part on norms of rows: what the newest evaluation found in every table."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.report.reading import RunRecord
from orchestrator.report.words import data_table, element, number, text
from workers.norm_histogram import BINS, EDGES, PER_DOUBLING, NormHistogram

__all__ = ["norm_part"]

_FEW = 12
"""Of more tables than this the part is closed at first."""

_MOST_BARS = 48
_HEIGHT = 26
_BAR = 4


def norm_part(run: RunRecord) -> str:
    """Quantiles and a small histogram for every table; empty if norms were never counted."""
    found = [event for event in run.of("row_norms") if event["step"] <= run.steps]
    if not found:
        return ""
    norms = {
        table: NormHistogram.of_record(record) for table, record in found[-1]["tables"].items()
    }
    step = found[-1]["step"]
    ordered = sorted(norms.items(), key=lambda pair: -pair[1].rows)
    broken = any(one.not_finite for one in norms.values())
    header = ["table", "norms", "rows", "zero", "median", "99 %", "largest"]
    header += ["not finite"] if broken else []
    scale = _scale(list(norms.values()))
    rows = [
        (
            text(table),
            _bars(one, scale),
            f"{one.rows:,}",
            f"{one.zero:,}" if one.zero else "",
            *(_about(one.quantile(share)) for share in (0.5, 0.99)),
            _about(one.most),
            *([f"{one.not_finite:,}" if one.not_finite else ""] if broken else []),
        )
        for table, one in ordered
    ]
    low, high = scale.ends
    words = (
        "L2 norms of all rows, those that no batch has changed too. Quantiles are right within an "
        f"eighth. The bars go from {number(low)} to {number(high)}, {PER_DOUBLING // scale.bins} "
        "to each doubling; rows of zeros are in none."
    )
    shown = element("p", words, class_="soft") + data_table(header, rows, words=2)
    title = f"Norms of rows after step {step:,}"
    if len(norms) > _FEW:
        return element("details", element("summary", title) + shown)
    return element("h3", title) + shown


def _about(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


class _Scale(NamedTuple):
    """Bins of the bars, the same for all tables."""

    first: int
    last: int
    bins: int
    """Bins of a bar."""

    @property
    def ends(self) -> tuple[float, float]:
        """The norms that the first bar begins and the last one ends with."""
        return EDGES[self.first * self.bins], EDGES[(self.last + 1) * self.bins]


def _rows_by_bin(norms: NormHistogram) -> dict[int, int]:
    """Rows that are not zero, by bin; those beyond either end are in the bin there."""
    found = dict(enumerate(norms.counts, norms.first))
    for place, count in ((0, norms.below), (BINS - 1, norms.above)):
        found[place] = found.get(place, 0) + count
    return {place: count for place, count in found.items() if count}


def _scale(norms: list[NormHistogram]) -> _Scale:
    """From the first bin that is filled in any table to the last, in bars that are not too many."""
    filled = [place for one in norms for place in _rows_by_bin(one)] or [0]
    low, high = min(filled), max(filled)
    bins = next(size for size in (1, 2, 4, 8) if size == 8 or (high - low) // size < _MOST_BARS)
    return _Scale(low // bins, high // bins, bins)


def _bars(norms: NormHistogram, scale: _Scale) -> str:
    """Bars, the fullest as high as the picture."""
    found: dict[int, int] = {}
    for place, count in _rows_by_bin(norms).items():
        found[place // scale.bins] = found.get(place // scale.bins, 0) + count
    most = max(found.values(), default=1)
    bars = ""
    for place, count in sorted(found.items()):
        height = max(1.0, _HEIGHT * count / most)  # however few they are, they are to be seen
        bars += (
            f'<rect x="{_BAR * (place - scale.first)}" y="{_HEIGHT - height:.1f}" '
            f'width="{_BAR - 1}" height="{height:.1f}" fill="var(--line-0)"/>'
        )
    width = _BAR * (scale.last - scale.first + 1)
    told = f"{sum(found.values()):,} rows from {_about(norms.least)} to {_about(norms.most)}"
    return (
        f'<svg viewBox="0 0 {width} {_HEIGHT}" width="{width}" height="{_HEIGHT}" role="img" '
        f'aria-label="{told}">{bars}</svg>'
    )
