"""Metrics of binary predictions that merge over devices, hosts and leases.

Predictions are counted in equal bins of probability, positives and negatives apart. Everything a
report needs follows from these counts and three sums, so merging is addition. Counts are exact, so
AUC and accuracy do not depend on how the samples were spread; the sums do in their last digits.
Samples of weight 0, which fill up the last batch, count nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BINS", "BinaryMetrics"]

BINS = 8192
"""Bins of probability; even, so that 0.5 is an edge."""


@dataclass(frozen=True)
class BinaryMetrics:
    """Counts and sums over weighted samples; add two with ``merge``.

    Attributes:
        positives: float64[BINS], weight of the samples with label 1 by bin of prediction.
        negatives: float64[BINS], the same for label 0.
        loss: Sum of weight times loss (nats).
        weight: Sum of weights.
        predicted: Sum of weight times predicted probability.
    """

    positives: np.ndarray
    negatives: np.ndarray
    loss: float
    weight: float
    predicted: float

    @staticmethod
    def empty() -> BinaryMetrics:
        """Metrics of no sample: the neutral element of ``merge``."""
        return BinaryMetrics(np.zeros(BINS), np.zeros(BINS), 0.0, 0.0, 0.0)

    @staticmethod
    def total(shares: Iterable[BinaryMetrics]) -> BinaryMetrics:
        """Metrics of the samples of all: as ``merge`` one by one, but with one result for all."""
        whole = BinaryMetrics.empty()
        positives, negatives = whole.positives, whole.negatives
        loss = weight = predicted = 0.0
        for share in shares:
            positives += share.positives
            negatives += share.negatives
            loss += share.loss
            weight += share.weight
            predicted += share.predicted
        return BinaryMetrics(positives, negatives, loss, weight, predicted)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without empty bins: many hosts answer, and their shares of a lease fill few."""
        sums = (self.loss, self.weight, self.predicted)
        return _unpacked, (_filled(self.positives), _filled(self.negatives), *sums)

    def merge(self, other: BinaryMetrics) -> BinaryMetrics:
        """Metrics of the samples of both."""
        return BinaryMetrics(
            self.positives + other.positives,
            self.negatives + other.negatives,
            self.loss + other.loss,
            self.weight + other.weight,
            self.predicted + other.predicted,
        )

    @property
    def auc_error_bound(self) -> float:
        """How far ``auc`` can be from that of the predictions themselves, in either direction.

        Pairs of a positive and a negative in different bins are in the right order; those in one
        bin count half, and are right, wrong or tied in truth. So the error is at most half the
        chance that a pair falls into one bin: below 1e-3 unless predictions crowd into few bins.
        NaN without positives or negatives.
        """
        pairs = float(self.positives.sum()) * float(self.negatives.sum())
        return 0.5 * float(self.positives @ self.negatives) / pairs if pairs else float("nan")

    def result(self) -> dict[str, float]:
        """``auc``, ``normalised_entropy``, ``loss``, ``calibration``, ``accuracy``, ``examples``.

        Normalised entropy is the loss over that of always predicting the base rate (He et al.,
        "Practical Lessons from Predicting Clicks on Ads at Facebook", 2014); calibration is the sum
        of predictions over the number of positives; accuracy is the share of samples whose
        prediction is at least 0.5 just when their label is 1. The AUC is that of the bins: see
        ``auc_error_bound``. A figure that is not defined for these samples (no positives, say) is
        NaN.
        """
        positives, negatives = float(self.positives.sum()), float(self.negatives.sum())
        loss = self.loss / self.weight if self.weight else float("nan")
        half = len(self.positives) // 2
        right = float(self.positives[half:].sum() + self.negatives[:half].sum())
        if positives and negatives:
            below = np.cumsum(self.negatives) - self.negatives
            wins = float(np.sum(self.positives * (below + 0.5 * self.negatives)))
            auc = wins / (positives * negatives)
            rate = positives / (positives + negatives)
            base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
            entropy = loss / float(base)
        else:
            auc = entropy = float("nan")
        return {
            "auc": auc,
            "normalised_entropy": entropy,
            "loss": loss,
            "calibration": self.predicted / positives if positives else float("nan"),
            "accuracy": right / self.weight if self.weight else float("nan"),
            "examples": self.weight,
        }


type _Filled = tuple[np.ndarray, np.ndarray]
"""Numbers of the bins that are not empty, uint16, and what is in them."""


def _filled(counts: np.ndarray) -> _Filled:
    places = np.flatnonzero(counts)
    return places.astype(np.uint16), counts[places]


def _unpacked(
    positives: _Filled, negatives: _Filled, loss: float, weight: float, predicted: float
) -> BinaryMetrics:
    whole = BinaryMetrics.empty()
    for counts, (places, values) in ((whole.positives, positives), (whole.negatives, negatives)):
        counts[places] = values
    return BinaryMetrics(whole.positives, whole.negatives, loss, weight, predicted)
