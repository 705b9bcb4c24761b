"""What of a label counts as 1."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from workers.data.transforms.columns import is_number, is_text, null_mask, plain
from workers.errors import DataError

__all__ = ["Label", "read_label"]

_YES = {
    "1",
    "yes",
    "y",
    "true",
    "t",
    "positive",
    "click",
    "clicked",
    "buy",
    "bought",
    "good",
    "won",
}


@dataclass(frozen=True)
class Label:
    """The column to predict.

    Attributes:
        column: Its name.
        positive: Numbers of at least this, or this string, count as 1; None where it is 0 or 1.
        rate: Share of ones in the sample.
        why: What counts as 1, in a sentence.
        labels: The sample's, float32 ``[n]``.
    """

    column: str
    positive: float | str | None
    rate: float
    why: str
    labels: np.ndarray = field(repr=False, compare=False)


def read_label(column: str, values: pa.ChunkedArray) -> Label:
    """Decide what counts as 1: of numbers, the threshold that parts the rows most evenly.

    Args:
        column: Name of the column.
        values: Those of a sample.

    Raises:
        DataError: It is neither numbers nor two strings, has nulls, or has one value only.
    """
    nulls = int(null_mask(values).sum())
    if nulls:
        raise DataError(
            f"label '{column}' is null in {nulls:,} of {len(values):,} rows of the sample: "
            "fill it, leave these rows out, or name another label"
        )
    kind = plain(values.type)
    values = values.cast(kind)
    if is_number(kind):
        numbers = values.cast(pa.int8()) if pa.types.is_boolean(kind) else values
        return _of_numbers(column, numbers.cast(pa.float64(), safe=False).to_numpy())
    if is_text(kind):
        return _of_words(column, values)
    raise DataError(f"label '{column}' has type {kind}; name a column of numbers, or of two words")


def _of_numbers(column: str, numbers: np.ndarray) -> Label:
    found = np.unique(numbers)
    if not np.isfinite(numbers).all():
        wrong = "NaN" if np.isnan(numbers).any() else "infinite numbers"
        raise DataError(
            f"label '{column}' holds {wrong}: leave these rows out, or name another label"
        )
    if len(found) < 2:
        raise DataError(
            f"label '{column}' is {found[0]:g} in all rows of the sample, so there is nothing to "
            "learn; name another label"
        )
    if found.tolist() == [0.0, 1.0]:
        rate = float(numbers.mean())
        why = f"label '{column}' is 1 in {rate:.1%} of the rows"
        return Label(column, None, rate, why, numbers.astype(np.float32))
    ordered = np.sort(numbers)
    shares = 1 - np.searchsorted(ordered, found[1:]) / len(ordered)
    place = int(np.argmin(np.abs(shares - 0.5)))
    positive, rate = float(found[1 + place]), float(shares[place])
    why = (
        f"label '{column}' has {len(found):,} values from {found[0]:g} to {found[-1]:g}: "
        f"{positive:g} and more count as 1, which are {rate:.1%} of the rows "
        "(parameters.positive changes that)"
    )
    return Label(column, positive, rate, why, (numbers >= positive).astype(np.float32))


def _of_words(column: str, values: pa.ChunkedArray) -> Label:
    counted = values.value_counts().to_pylist()
    counts = {entry["values"]: entry["counts"] for entry in counted}
    if len(counts) != 2 or any(not isinstance(word, str) for word in counts):
        raise DataError(
            f"label '{column}' holds {len(counts)} different words; name a column of numbers, or "
            "of two words"
        )
    yes = [word for word in counts if word.lower() in _YES]
    positive = yes[0] if len(yes) == 1 else min(counts, key=lambda word: (counts[word], word))
    rate = counts[positive] / len(values)
    why = (
        f"label '{column}': '{positive}' counts as 1, which are {rate:.1%} of the rows "
        "(parameters.positive changes that)"
    )
    labels = np.asarray([word == positive for word in values.to_pylist()], np.float32)
    return Label(column, positive, rate, why, labels)
