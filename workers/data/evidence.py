"""What a sample tells of a column: how many values, how skewed, and what it says of the label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

__all__ = ["Counts", "auc_by_groups", "auc_of", "count_groups", "groups_of", "quantile_groups"]

PRIOR = 10.0
"""Rows at the mean rate that every group is counted with."""


@dataclass(frozen=True)
class Counts:
    """How often values occur in a sample.

    Attributes:
        distinct: Different values in the sample.
        estimate: Different values in all rows, estimated.
        top_share: Share of the most frequent value.
        hot_share: Share of the rows that the most frequent hundredth of the values has.
    """

    distinct: int
    estimate: int
    top_share: float
    hot_share: float


def groups_of(values: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Values as numbers of groups: int64 ``[n]``, -1 for nulls, and the value of each group."""
    chunk = values.combine_chunks()
    if pa.types.is_dictionary(chunk.type):
        chunk = chunk.cast(chunk.type.value_type)
    encoded = chunk.dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy().astype(np.int64), encoded.dictionary


def quantile_groups(numbers: np.ndarray, most: int = 32) -> np.ndarray:
    """Numbers as groups of about as many rows each: int64 ``[n]``, -1 for NaN.

    Infinite ones are in the first and the last group.
    """
    known = numbers[np.isfinite(numbers)]
    if not known.size:
        return np.full(len(numbers), -1, np.int64)
    cuts = np.unique(np.quantile(known, np.arange(1, most) / most))
    groups = np.searchsorted(cuts, numbers, side="right").astype(np.int64)
    groups[np.isnan(numbers)] = -1
    return groups


def count_groups(groups: np.ndarray, rows: int) -> Counts:
    """Count the values of a sample.

    What is not in the sample is estimated after Chao ("Nonparametric estimation of the number of
    classes in a population", 1984): ``distinct + f1 (f1 - 1) / (2 (f2 + 1))`` with ``f1`` values
    seen once and ``f2`` seen twice. That is a lower bound; where nothing repeats it says nothing,
    and the sample's share of different values is taken for that of all rows.

    Args:
        groups: int64 ``[n]``, -1 for nulls.
        rows: Rows of the whole data.
    """
    counts = np.bincount(groups[groups >= 0]) if (groups >= 0).any() else np.zeros(0, np.int64)
    counts = np.sort(counts[counts > 0])[::-1]
    seen = int(counts.sum())
    if not seen:
        return Counts(0, 0, 0.0, 0.0)
    distinct = len(counts)
    estimate = distinct
    if len(groups) < rows:
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        estimate = distinct + once * (once - 1) // (2 * (twice + 1))
        if once > 0.95 * seen:
            estimate = int(rows * distinct / len(groups))
    hot = int(counts[: max(1, round(distinct / 100))].sum())
    return Counts(distinct, min(estimate, rows), float(counts[0]) / len(groups), hot / len(groups))


def auc_by_groups(groups: np.ndarray, labels: np.ndarray) -> float:
    """How well the group alone orders the label: the AUC of its rate of positives.

    The rates of one half of the rows score the other half, and the other way round, so a value
    that is seen once tells nothing. Groups are counted with 10 rows at the mean rate.

    Args:
        groups: int64 ``[n]``, -1 for nulls, which are a group too.
        labels: float32 ``[n]``, 0 or 1.

    Returns:
        From about 0.5 (nothing) to 1; NaN where all labels are the same.
    """
    groups = groups + 1
    half = np.arange(len(groups)) % 2 == 0
    size = int(groups.max(initial=0)) + 1
    scores = np.empty(len(groups))
    for here in (half, ~half):
        base = labels[~here].mean() if (~here).any() else 0.5
        counts = np.bincount(groups[~here], minlength=size)
        positives = np.bincount(groups[~here], labels[~here], minlength=size)
        scores[here] = ((positives + PRIOR * base) / (counts + PRIOR))[groups[here]] - base
    return auc_of(scores, labels)


def auc_of(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a positive scores above a negative, ties counting half; NaN without either."""
    positives = float(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    return float(
        (middle[ranks][labels > 0].sum() - positives * (positives + 1) / 2)
        / (positives * negatives)
    )
