"""Recall and NDCG of retrieval at cutoffs, from the ranks of the relevant items.

For every sample a model orders all candidates; of each relevant one its rank, from 0, is all that
is needed. Sums over samples merge by addition, whatever hosts and batches they came from. Samples
of weight 0, which fill up the last batch, count nowhere, nor do those without a relevant item.

For a sample whose ``m`` relevant items have the ranks ``r``:

    recall@k = |{r < k}| / m
    NDCG@k   = Σ_{r < k} 1 / log2(r + 2)  /  Σ_{i < min(m, k)} 1 / log2(i + 2)

(Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002, with relevance 0
or 1.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["RankingMetrics", "item_ranks", "ranking_sums"]


def item_ranks(scores: jax.Array, relevant: jax.Array) -> jax.Array:
    """The ranks of relevant items among all candidates, from 0.

    Of equal scores the candidate with the lower number comes first; NaN comes last.

    Args:
        scores: ``[samples, candidates]``, of which the highest ranks first.
        relevant: int ``[samples, most relevant]``, numbers of candidates, filled up with -1.

    Returns:
        int32 as ``relevant``: ranks, and -1 where that is -1.
    """
    order = jnp.argsort(-scores, axis=-1, stable=True)
    ranks = jnp.argsort(order, axis=-1).astype(jnp.int32)
    return jnp.where(
        relevant >= 0, jnp.take_along_axis(ranks, jnp.maximum(relevant, 0), axis=-1), -1
    )


def ranking_sums(ranks: jax.Array, weights: jax.Array, cutoffs: Sequence[int]) -> jax.Array:
    """What a device adds up for a batch.

    Args:
        ranks: int ``[samples, most relevant]``, from 0; -1 fills up.
        weights: ``[samples]``.
        cutoffs: The numbers ``k`` of first candidates to look at.

    Returns:
        float32 ``[2 * cutoffs + 1]``: sums of weight times recall@k, of weight times NDCG@k,
        and of weights. Add those of several batches, and give them to `RankingMetrics.from_sums`.
    """
    is_item = ranks >= 0
    items = jnp.sum(is_item, axis=-1)
    weights = jnp.where(items > 0, weights, 0.0)
    gains = 1 / jnp.log2(jnp.maximum(ranks, 0) + 2.0)
    ideal_gains = jnp.cumsum(1 / jnp.log2(jnp.arange(max(cutoffs)) + 2.0))
    recalls, ndcgs = [], []
    for cutoff in cutoffs:
        found = is_item & (ranks < cutoff)
        recall = jnp.sum(found, axis=-1) / jnp.maximum(items, 1)
        ideal = ideal_gains[jnp.clip(items, 1, cutoff) - 1]
        recalls.append(jnp.sum(weights * recall))
        ndcgs.append(jnp.sum(weights * jnp.sum(jnp.where(found, gains, 0.0), axis=-1) / ideal))
    return jnp.stack([*recalls, *ndcgs, jnp.sum(weights)]).astype(jnp.float32)


@dataclass(frozen=True)
class RankingMetrics:
    """Sums over weighted samples; add two with ``merge``.

    Attributes:
        cutoffs: The numbers ``k``.
        recalls: float64 ``[cutoffs]``, sums of weight times recall@k.
        ndcgs: float64 ``[cutoffs]``, sums of weight times NDCG@k.
        weight: Sum of the weights of samples with a relevant item.

    Example:
        >>> ranks = np.array([[0, -1], [5, 1]])
        >>> sums = ranking_sums(ranks, np.ones(2), [1, 3])
        >>> RankingMetrics.from_sums(sums, [1, 3]).result()["recall@3"]
        0.75
    """

    cutoffs: tuple[int, ...]
    recalls: np.ndarray
    ndcgs: np.ndarray
    weight: float

    @staticmethod
    def empty(cutoffs: Sequence[int]) -> RankingMetrics:
        """Metrics of no sample: the neutral element of ``merge``.

        Raises:
            ValueError: There are no cutoffs, or one is not positive.
        """
        if not cutoffs or min(cutoffs) < 1:
            raise ValueError(
                f"cutoffs are {tuple(cutoffs)}; give the positive numbers k of recall@k and ndcg@k"
            )
        return RankingMetrics(tuple(cutoffs), np.zeros(len(cutoffs)), np.zeros(len(cutoffs)), 0.0)

    @staticmethod
    def from_sums(sums: jax.Array | np.ndarray, cutoffs: Sequence[int]) -> RankingMetrics:
        """Metrics of the samples that `ranking_sums` has added up, with the same cutoffs."""
        values = np.asarray(sums, np.float64)
        count = len(cutoffs)
        if values.shape != (2 * count + 1,):
            raise ValueError(
                f"sums have the shape {values.shape}, but {count} cutoffs need ({2 * count + 1},)"
            )
        return RankingMetrics(
            tuple(cutoffs), values[:count], values[count : 2 * count], float(values[-1])
        )

    def merge(self, other: RankingMetrics) -> RankingMetrics:
        """Metrics of the samples of both.

        Raises:
            ValueError: They have other cutoffs.
        """
        if self.cutoffs != other.cutoffs:
            raise ValueError(
                f"metrics at {self.cutoffs} cannot be merged with metrics at {other.cutoffs}: "
                "count both with the same cutoffs"
            )
        return RankingMetrics(
            self.cutoffs,
            self.recalls + other.recalls,
            self.ndcgs + other.ndcgs,
            self.weight + other.weight,
        )

    def result(self) -> dict[str, float]:
        """``recall@k`` and ``ndcg@k`` for every cutoff, and ``examples``; NaN without a sample."""
        figures: dict[str, float] = {}
        for name, sums in (("recall", self.recalls), ("ndcg", self.ndcgs)):
            for cutoff, total in zip(self.cutoffs, sums, strict=True):
                mean = float(total) / self.weight if self.weight else float("nan")
                figures[f"{name}@{cutoff}"] = mean
        return figures | {"examples": self.weight}
