"""Metrics of binary predictions that merge exactly over devices, hosts and leases.

Predictions are counted in equal bins of probability, positives and negatives apart. Everything a
report needs follows from these counts and four sums, so merging is addition, and the result does
not depend on how the samples were spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["BINS", "BinaryMetrics"]

BINS = 8192
"""Bins of probability. The error of the AUC is at most half the chance that a positive and a
negative fall into the same bin: below 1e-3 unless predictions crowd into a few bins."""


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

    def merge(self, other: BinaryMetrics) -> BinaryMetrics:
        """Metrics of the samples of both."""
        return BinaryMetrics(
            self.positives + other.positives,
            self.negatives + other.negatives,
            self.loss + other.loss,
            self.weight + other.weight,
            self.predicted + other.predicted,
        )

    def result(self) -> dict[str, float]:
        """The figures: ``auc``, ``normalised_entropy``, ``loss``, ``calibration``, ``examples``.

        Normalised entropy is the loss over that of always predicting the base rate (He et al.,
        "Practical Lessons from Predicting Clicks on Ads at Facebook", 2014); calibration is the sum
        of predictions over the number of positives. A figure that is not defined for these samples
        (no positives, say) is NaN.
        """
        positives, negatives = float(self.positives.sum()), float(self.negatives.sum())
        loss = self.loss / self.weight if self.weight else float("nan")
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
            "examples": self.weight,
        }
