"""How a dense number is clipped, put into logarithms and standardised, from a sample of it."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["number_fields", "range_boundaries", "rounded"]

MUCH_SKEW = 2.0
"""Skewness (third moment over the deviation's cube) from which logarithms are tried."""
RANGES = 32


def number_fields(
    column: str, values: np.ndarray, may_be_missing: bool
) -> tuple[dict[str, Any], str]:
    """Fields of a `Number` for these values, and how it is treated, in words.

    Values are clipped to what the sample has, so that one beyond it, or an infinite one, is taken
    for the nearest. Where they are skewed and not negative, logarithms are taken if that halves the
    skewness. A missing one is taken for the mean.

    Args:
        column: Its name.
        values: Finite float64 ``[n]``, at least one.
        may_be_missing: Whether there may be nulls or NaN.
    """
    least, most = rounded(values.min(), down=True), rounded(values.max(), down=False)
    before = _skewness(values)
    log = values.min() >= 0 and before > MUCH_SKEW and _skewness(np.log1p(values)) < before / 2
    used = np.log1p(values) if log else values
    mean = float(used.mean())
    fields: dict[str, Any] = {"mean": rounded(mean), "scale": rounded(float(used.std())) or 1.0}
    if log:
        fields["log"] = True
    fields |= {"least": least, "most": most}
    if may_be_missing:
        fields["missing"] = rounded(float(np.expm1(mean)) if log else mean)
    how = f"from {least:g} to {most:g}"
    return fields, how + (f", in logarithms as it is skewed ({before:.0f})" if log else "")


def range_boundaries(values: np.ndarray) -> list[float]:
    """Boundaries of up to 32 ranges with about as many values each."""
    cuts = np.quantile(values, np.arange(1, RANGES) / RANGES, method="higher")
    return sorted({float(cut) for cut in np.unique(cuts) if cut > values.min()})


def rounded(value: float, down: bool | None = None) -> float:
    """Six significant digits; towards below or above where ``down`` is given."""
    if value == 0 or not np.isfinite(value):
        return float(value)
    if down is None:
        return float(f"{value:.6g}")
    digits = 5 - int(np.floor(np.log10(abs(value))))
    scale = 10.0**digits
    result = (np.floor if down else np.ceil)(value * scale) / scale
    return float(f"{result:.12g}") if np.isfinite(result) else float(value)


def _skewness(values: np.ndarray) -> float:
    deviation = values.std()
    if not deviation:
        return 0.0
    return float((((values - values.mean()) / deviation) ** 3).mean())
