"""Recall and NDCG against a plain reference over sorted lists, and merging over uneven parts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.ranking_metrics import RankingMetrics, item_ranks, ranking_sums

CUTOFFS = (1, 3, 10)


def reference(
    scores: np.ndarray, relevant: list[set[int]], weights: np.ndarray
) -> dict[str, float]:
    """Each sample's list is sorted, and walked along."""
    totals = {f"{name}@{k}": 0.0 for name in ("recall", "ndcg") for k in CUTOFFS}
    weight = 0.0
    for row, wanted, importance in zip(scores, relevant, weights, strict=True):
        if not wanted:
            continue
        weight += importance
        listed = sorted(range(len(row)), key=lambda item: (-row[item], item))
        for k in CUTOFFS:
            found = [place for place, item in enumerate(listed[:k]) if item in wanted]
            ideal = sum(1 / math.log2(place + 2) for place in range(min(len(wanted), k)))
            gain = sum(1 / math.log2(place + 2) for place in found)
            totals[f"recall@{k}"] += importance * len(found) / len(wanted)
            totals[f"ndcg@{k}"] += importance * gain / ideal
    return {name: total / weight if weight else math.nan for name, total in totals.items()} | {
        "examples": weight
    }


def padded(relevant: list[set[int]], width: int) -> np.ndarray:
    return np.array(
        [sorted(items) + [-1] * (width - len(items)) for items in relevant], np.int32
    ).reshape(len(relevant), width)


@jax.jit
def sums(scores: jax.Array, relevant: jax.Array, weights: jax.Array) -> jax.Array:
    return ranking_sums(item_ranks(scores, relevant), weights, CUTOFFS)


def counted(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> RankingMetrics:
    return RankingMetrics.from_sums(sums(scores, relevant, weights), CUTOFFS)


@given(
    candidates=st.sampled_from([3, 17]),
    relevant=st.lists(st.sets(st.integers(0, 2), max_size=3), min_size=8, max_size=8),
    levels=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_against_sorted_lists(
    candidates: int, relevant: list[set[int]], levels: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    # Few levels of score, so that there are ties.
    scores = generator.integers(0, levels, (len(relevant), candidates)).astype(np.float32)
    weights = generator.integers(0, 3, len(relevant)).astype(np.float32)
    result = counted(scores, padded(relevant, 3), weights).result()
    expected = reference(scores, relevant, weights)
    assert result.keys() == expected.keys()
    for name, figure in expected.items():
        assert result[name] == pytest.approx(figure, rel=1e-5, nan_ok=True), name


def test_merging_uneven_parts_filled_up_is_the_whole() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(103, 40)).astype(np.float32)
    items = [{int(generator.integers(40)), int(generator.integers(40))} for _ in range(103)]
    relevant, weights = padded(items, 2), np.ones(103, np.float32)
    expected = reference(scores, items, weights)
    for parts in (1, 2, 5):
        merged = RankingMetrics.empty(CUTOFFS)
        for rows in np.array_split(np.arange(103), parts):
            room = 110 - len(rows)
            # Filled up as the last batch of an epoch is: weight 0, and scores that are no numbers.
            merged = merged.merge(
                counted(
                    np.pad(scores[rows], ((0, room), (0, 0)), constant_values=np.nan),
                    np.pad(relevant[rows], ((0, room), (0, 0))),
                    np.pad(weights[rows], (0, room)),
                )
            )
        assert merged.result() == pytest.approx(expected, rel=1e-5)
        assert merged.result()["examples"] == 103


def test_no_number_comes_last() -> None:
    scores = jnp.array([[jnp.nan, 0.0, 1.0]])
    assert item_ranks(scores, jnp.array([[0, 2, -1]])).tolist() == [[2, 0, -1]]


def test_other_cutoffs_or_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at \(1,\) cannot be merged with metrics at \(2,\)"):
        RankingMetrics.empty([1]).merge(RankingMetrics.empty([2]))
    with pytest.raises(ValueError, match=r"2 cutoffs need \(5,\)"):
        RankingMetrics.from_sums(np.zeros(4), [1, 2])
    for cutoffs in ([], [0]):
        with pytest.raises(ValueError, match="positive numbers k"):
            RankingMetrics.empty(cutoffs)
    assert math.isnan(RankingMetrics.empty([5]).result()["recall@5"])
