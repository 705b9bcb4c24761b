"""Histogram of the L2 norms of a table's rows, in bins that are the same for all tables and runs.

A bin of a norm above zero holds those from one edge up to the next. There are eight bins to each
doubling, from ``LOWEST`` to ``HIGHEST``, with edges evenly between powers of two:

    2^e · (1 + q / 8),   e = -20 … 9,   q = 0 … 7

So a bin is at most an eighth wide. A row of zeros has a bin of its own, and there is one for norms
below the first edge, one for those from the last edge on, and one for rows that are not finite.
Counts are whole numbers, and merging adds them: they are the same however rows lie on hosts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

__all__ = ["BINS", "EDGES", "HIGHEST", "LOWEST", "PER_DOUBLING", "NormHistogram", "merge_norms"]

LOWEST = 2.0**-20
"""First edge: about one millionth."""

HIGHEST = 2.0**10
"""Last edge: 1024."""

PER_DOUBLING = 8
"""Bins from a power of two to the next."""

_DOUBLINGS = 30

BINS = _DOUBLINGS * PER_DOUBLING
"""Bins between the first edge and the last one."""

EDGES: tuple[float, ...] = tuple(
    LOWEST * 2.0 ** (number // PER_DOUBLING) * (1 + number % PER_DOUBLING / PER_DOUBLING)
    for number in range(BINS + 1)
)
"""The edges, rising; all are exact in float32."""


@dataclass(frozen=True)
class NormHistogram:
    """Norms of rows of one table; add two with ``merge``.

    Attributes:
        rows: All rows.
        not_finite: Rows that hold NaN or infinity, or whose norm's square is beyond float32.
        zero: Rows of zeros.
        below: Norms above 0 and below the first edge.
        above: Finite norms from the last edge on.
        first: Number of the bin that ``counts`` begins with.
        counts: Rows by bin, without empty bins at both ends.
        least: Smallest finite norm; None where no row is finite.
        most: Largest finite norm, likewise.
        total: Sum of the finite norms.
        squares: Sum of their squares.

    Example:
        >>> one = NormHistogram.of_bins([0] * 160 + [3, 1] + [0] * 78, zero=1, least=0, most=1.2)
        >>> one.rows, one.first, one.counts, EDGES[one.first]
        (5, 160, (3, 1), 1.0)
        >>> one.merge(one).counts
        (6, 2)
    """

    rows: int = 0
    not_finite: int = 0
    zero: int = 0
    below: int = 0
    above: int = 0
    first: int = 0
    counts: tuple[int, ...] = ()
    least: float | None = None
    most: float | None = None
    total: float = 0.0
    squares: float = 0.0

    @staticmethod
    def of_bins(
        bins: Sequence[int],
        *,
        not_finite: int = 0,
        zero: int = 0,
        below: int = 0,
        above: int = 0,
        least: float | None = None,
        most: float | None = None,
        total: float = 0.0,
        squares: float = 0.0,
    ) -> NormHistogram:
        """A histogram of counts of all bins, ``[BINS]``; see the attributes for the others.

        Raises:
            ValueError: There is another number of bins.
        """
        if len(bins) != BINS:
            raise ValueError(f"there are {len(bins)} counts, but {BINS} bins: give one for each")
        filled = [place for place, count in enumerate(bins) if count]
        first, end = (filled[0], filled[-1] + 1) if filled else (0, 0)
        counts = tuple(int(count) for count in bins[first:end])
        rows = sum(counts) + not_finite + zero + below + above
        return NormHistogram(
            *(rows, not_finite, zero, below, above, first, counts, least, most, total, squares)
        )

    @staticmethod
    def of_record(record: Mapping[str, Any]) -> NormHistogram:
        """The histogram whose attributes were written as JSON."""
        sums = {name: _number(record[name]) for name in ("total", "squares")}
        return NormHistogram(**{**record, "counts": tuple(record["counts"]), **sums})

    @property
    def finite(self) -> int:
        """Rows that are finite."""
        return self.rows - self.not_finite

    def merge(self, other: NormHistogram) -> NormHistogram:
        """The histogram of the rows of both."""
        bins = [mine + others for mine, others in zip(self._bins(), other._bins(), strict=True)]
        known = [one for one in (self, other) if one.least is not None and one.most is not None]
        return NormHistogram.of_bins(
            bins,
            not_finite=self.not_finite + other.not_finite,
            zero=self.zero + other.zero,
            below=self.below + other.below,
            above=self.above + other.above,
            least=min((one.least for one in known if one.least is not None), default=None),
            most=max((one.most for one in known if one.most is not None), default=None),
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    def buckets(self) -> list[tuple[float, float, int]]:
        """From, up to, and how many finite rows: rising, from the first that is filled to the last.

        The first begins with the smallest norm, and the last ends with the largest.
        """
        last = max(HIGHEST, self.most or 0.0)
        lows = (0.0, 0.0, *EDGES)
        highs = (0.0, *EDGES, last)
        counts = (self.zero, self.below, *self._bins(), self.above)
        filled = [place for place, count in enumerate(counts) if count]
        if not filled or self.least is None or self.most is None:
            return []
        found = []
        for place in range(filled[0], filled[-1] + 1):
            low = self.least if place == filled[0] else lows[place]
            high = self.most if place == filled[-1] else highs[place]
            found.append((low, high, counts[place]))
        return found

    def quantile(self, share: float) -> float | None:
        """The norm that this share of the finite rows does not exceed; None without such a row.

        Within a bin norms are taken to lie evenly, so it may be wrong by the width of a bin: an
        eighth.
        """
        wanted, passed = share * self.finite, 0
        buckets = self.buckets()
        for low, high, count in buckets:
            if count and passed + count >= wanted:
                return low + (high - low) * max(0.0, wanted - passed) / count
            passed += count
        return buckets[-1][1] if buckets else None

    def _bins(self) -> list[int]:
        """Counts of all bins."""
        return [0] * self.first + list(self.counts) + [0] * (BINS - self.first - len(self.counts))


def merge_norms(shares: Sequence[Mapping[str, NormHistogram]]) -> dict[str, NormHistogram]:
    """The histograms of all hosts as one, table by table.

    Args:
        shares: Of each host, by table: all of the same tables.
    """
    tables = shares[0] if shares else {}
    return {name: reduce(NormHistogram.merge, [share[name] for share in shares]) for name in tables}


def _number(value: float | None) -> float:
    """As it was before it was written: numbers that are not finite are null in JSON."""
    return math.inf if value is None else value
