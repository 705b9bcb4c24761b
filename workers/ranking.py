"""Ranking: how a program asks for recall@k and NDCG@k in evaluations, and candidates of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from workers.errors import ProgramError
from workers.mesh import AXIS

__all__ = ["Ranking", "in_batch", "item_ranks", "ranking_counts", "ranks_of"]


@dataclass(frozen=True)
class Ranking:
    """Has evaluations tell how well a program's model orders candidates.

    The model is asked by a method of its own, called as the model is, with
    ``({feature: [n, width]}, dense [n, columns])``. It returns

    * scores, ``[n, candidates]``, of which the highest ranks first, and
    * the numbers of the relevant candidates, int ``[n, most_relevant]``, filled up with -1.

    A sample counts if it has a relevant candidate and its label is above 0: a sample of label 0
    shows what was not chosen. Figures are ``recall@k`` and ``ndcg@k`` for every cutoff, beside
    those of any evaluation.

    Attributes:
        cutoffs: The numbers ``k`` of first candidates to look at.
        method: Name of the model's method.
        most_relevant: Most relevant candidates of a sample.

    Raises:
        ProgramError: A number is not positive, or a cutoff is given twice.

    Example:
        A tower for users and one for items, where a user's candidates are the batch's items:

        >>> class TwoTowers(nn.Module):                                     # doctest: +SKIP
        ...     def __call__(self, activations, dense):
        ...         return jnp.sum(activations["user"] * activations["item"], axis=-1)
        ...     def rank(self, activations, dense):
        ...         return in_batch(activations["user"], activations["item"], keys=dense[:, 0])
        >>> Program(..., model=TwoTowers(), ranking=Ranking((1, 10)))       # doctest: +SKIP
    """

    cutoffs: tuple[int, ...] = (1, 10)
    method: str = "rank"
    most_relevant: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "cutoffs", tuple(self.cutoffs))
        if not self.cutoffs or min(self.cutoffs) < 1 or len({*self.cutoffs}) < len(self.cutoffs):
            raise ProgramError(
                f"ranking: cutoffs are {self.cutoffs}; give different positive numbers, for "
                "example (1, 10)"
            )
        if self.most_relevant < 1:
            raise ProgramError(f"ranking: most_relevant is {self.most_relevant}; 1 is the least")

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the counts: see `ranking_counts`."""
        return self.most_relevant, max(self.cutoffs) + 1


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


def ranking_counts(ranks: jax.Array, weights: jax.Array, depth: int) -> jax.Array:
    """What a device counts in a batch.

    Args:
        ranks: int ``[samples, most relevant]``, from 0; -1 fills up.
        weights: ``[samples]``.
        depth: Ranks that are told apart: the largest cutoff.

    Returns:
        float32 ``[most relevant, depth + 1]``. In row ``m - 1``, of the samples with ``m`` relevant
        items: the weight of the items at each of the first ``depth`` ranks, then the weight of the
        samples. Exact for whole weights as long as no count passes 2^24.

    Example:
        >>> ranking_counts(jnp.array([[0, -1], [5, 1]]), jnp.ones(2), depth=2).tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    """
    most = ranks.shape[-1]
    items = jnp.sum(ranks >= 0, axis=-1)
    rows = jnp.maximum(items, 1) - 1
    weights = jnp.where(items > 0, weights, 0.0).astype(jnp.float32)
    shown = (ranks >= 0) & (ranks < depth)
    counts = jnp.zeros((most, depth + 1), jnp.float32)
    counts = counts.at[rows, depth].add(weights)
    columns = jnp.where(shown, ranks, 0)
    return counts.at[rows[:, None], columns].add(jnp.where(shown, weights[:, None], 0.0))


def ranks_of(ranking: Ranking, scores: jax.Array, relevant: jax.Array) -> jax.Array:
    """The ranks of what a model's method returned.

    Args:
        ranking: What the program asks for.
        scores: ``[n, candidates]``.
        relevant: int ``[n, most_relevant]``.

    Returns:
        int32 as ``relevant``: ranks from 0, and -1 where there is no item.

    Raises:
        ProgramError: The shapes do not fit.
    """
    wanted = (scores.shape[0], ranking.most_relevant)
    if scores.ndim != 2 or relevant.shape != wanted:
        raise ProgramError(
            f"the model's method '{ranking.method}' returned scores of the shape {scores.shape} "
            f"and relevant candidates of the shape {relevant.shape}; they must be "
            f"[n, candidates] and [n, {ranking.most_relevant}] (most_relevant)"
        )
    return item_ranks(scores, relevant)


def in_batch(
    queries: jax.Array, candidates: jax.Array, keys: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Score every query of the global batch with the candidates of all its samples.

    For a model's ranking method: a sample's own candidate is the relevant one. On a mesh the
    candidates of all devices are gathered, so ranks do not depend on the number of devices.

    Args:
        queries: ``[n, width]``.
        candidates: ``[n, width]``.
        keys: ``[n]`` whole numbers that tell candidates apart, for example the item's id as a
            dense column: an item that stands in several samples is one candidate. Numbers below 1
            are no candidates; dense columns of samples that fill up the last batch are 0. None
            takes every sample's as another, those that fill up too. As float32, which dense columns
            are, whole numbers are told apart up to 2^24: hash larger ones to below that.

    Returns:
        scores ``[n, global batch]``, -infinity for what is no candidate, and relevant ``[n, 1]``.
    """
    own = jnp.arange(queries.shape[0])
    if _on_mesh():
        own += jax.lax.axis_index(AXIS) * queries.shape[0]
        candidates = jax.lax.all_gather(candidates, AXIS, tiled=True)
        keys = None if keys is None else jax.lax.all_gather(keys, AXIS, tiled=True)
    scores = queries @ candidates.T
    if keys is None:
        return scores, own[:, None]
    first = jnp.argmax(keys[:, None] == keys[None, :], axis=1)
    listed = (first == jnp.arange(keys.size)) & (keys >= 1)
    relevant = jnp.where(keys[own] >= 1, first[own], -1)
    return jnp.where(listed, scores, -jnp.inf), relevant[:, None]


def _on_mesh() -> bool:
    """Whether this is traced on the devices of a mesh, and not for shapes alone."""
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes
