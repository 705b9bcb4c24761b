"""Recall and NDCG of retrieval at cutoffs, from the ranks of the relevant items.

For every sample a model orders all candidates; of each relevant one its rank, from 0, is all that
is needed. For a sample whose ``m`` relevant items have the ranks ``r``:

    recall@k = |{r < k}| / m
    NDCG@k   = Σ_{r < k} 1 / log2(r + 2)  /  Σ_{i < min(m, k)} 1 / log2(i + 2)

(Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002, with relevance 0
or 1.) Both follow from how often each rank was taken by an item of a sample with ``m`` of them. So
these counts are what is kept: they are whole numbers, and merging adds them, so the figures are the
same to the last bit however the samples were spread over hosts and batches. Samples of weight 0,
which fill up the last batch, count nowhere, nor do those without a relevant item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["RankingMetrics"]


@dataclass(frozen=True)
class RankingMetrics:
    """Counts of weighted samples; add two with ``merge``.

    Attributes:
        cutoffs: The numbers ``k``.
        counts: float64 ``[most relevant, largest cutoff + 1]``: see
            `workers.ranking.ranking_counts`.

    Example:
        Two samples: the only relevant item of one comes first, of two of the other one is second.

        >>> counts = [[1, 0, 0, 1], [0, 1, 0, 1]]
        >>> RankingMetrics.of(counts, [1, 3]).result()["recall@3"]
        0.75
    """

    cutoffs: tuple[int, ...]
    counts: np.ndarray

    @staticmethod
    def of(counts: ArrayLike, cutoffs: Sequence[int]) -> RankingMetrics:
        """Metrics of what `workers.ranking.ranking_counts` has counted.

        Raises:
            ValueError: There are no cutoffs, one is not positive, or the counts are of another
                depth than the largest.
        """
        if not cutoffs or min(cutoffs) < 1:
            raise ValueError(
                f"cutoffs are {tuple(cutoffs)}; give the positive numbers k of recall@k and ndcg@k"
            )
        values = np.asarray(counts, np.float64)
        if values.ndim != 2 or values.shape[1] != max(cutoffs) + 1:
            raise ValueError(
                f"counts have the shape {values.shape}, but the cutoffs {tuple(cutoffs)} need "
                f"[most relevant, {max(cutoffs) + 1}]: count with depth={max(cutoffs)}"
            )
        return RankingMetrics(tuple(cutoffs), values)

    def merge(self, other: RankingMetrics) -> RankingMetrics:
        """Metrics of the samples of both.

        Raises:
            ValueError: They have other cutoffs, or another number of relevant items.
        """
        if self.cutoffs != other.cutoffs or self.counts.shape != other.counts.shape:
            raise ValueError(
                f"metrics at {self.cutoffs} of up to {len(self.counts)} relevant items cannot be "
                f"merged with metrics at {other.cutoffs} of up to {len(other.counts)}: count both "
                "alike"
            )
        return RankingMetrics(self.cutoffs, self.counts + other.counts)

    def result(self) -> dict[str, float]:
        """``recall@k`` and ``ndcg@k`` for every cutoff, and ``ranked_examples``.

        The first two are NaN without a sample that has a relevant item; the last one is the weight
        of those that have.
        """
        most, depth = len(self.counts), self.counts.shape[1] - 1
        weight = float(self.counts[:, depth].sum())
        gains = 1 / np.log2(np.arange(max(depth, most)) + 2.0)
        ideal = np.cumsum(gains)
        figures: dict[str, float] = {}
        for cutoff in self.cutoffs:
            found = self.counts[:, :cutoff]
            items = np.arange(1, most + 1)
            recall = float(np.sum(found.sum(axis=1) / items))
            gained = found @ gains[:cutoff]
            ndcg = float(np.sum(gained / ideal[np.minimum(items, cutoff) - 1]))
            figures[f"recall@{cutoff}"] = recall / weight if weight else float("nan")
            figures[f"ndcg@{cutoff}"] = ndcg / weight if weight else float("nan")
        return figures | {"ranked_examples": weight}
