"""Recall and NDCG against a plain reference over sorted lists, and merging over uneven parts."""

from __future__ import annotations

import math
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.ranking import item_ranks, ranking_counts
from workers.ranking_metrics import RankingMetrics

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
        "ranked_examples": weight
    }


def padded(relevant: list[set[int]], width: int) -> np.ndarray:
    return np.array(
        [sorted(items) + [-1] * (width - len(items)) for items in relevant], np.int32
    ).reshape(len(relevant), width)


@jax.jit
def counts(scores: jax.Array, relevant: jax.Array, weights: jax.Array) -> jax.Array:
    return ranking_counts(item_ranks(scores, relevant), weights, max(CUTOFFS))


def counted(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> RankingMetrics:
    return RankingMetrics.of(counts(scores, relevant, weights), CUTOFFS)


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


def test_merging_uneven_parts_filled_up_is_the_whole_to_the_last_bit() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(103, 40)).astype(np.float32)
    items = [{int(generator.integers(40)), int(generator.integers(40))} for _ in range(103)]
    relevant, weights = padded(items, 2), np.ones(103)
    whole = counted(scores, relevant, weights).result()
    assert whole == pytest.approx(reference(scores, items, weights), rel=1e-12)
    assert whole["ranked_examples"] == 103
    for parts in (2, 5):
        shares = []
        for rows in np.array_split(np.arange(103), parts):
            room = 110 - len(rows)
            # Filled up as the last batch of an epoch is: weight 0, and scores that are no numbers.
            shares.append(
                counted(
                    np.pad(scores[rows], ((0, room), (0, 0)), constant_values=np.nan),
                    np.pad(relevant[rows], ((0, room), (0, 0))),
                    np.pad(weights[rows], (0, room)),
                )
            )
        assert reduce(RankingMetrics.merge, shares).result() == whole


def test_no_number_comes_last() -> None:
    scores = jnp.array([[jnp.nan, 0.0, 1.0]])
    assert item_ranks(scores, jnp.array([[0, 2, -1]])).tolist() == [[2, 0, -1]]


def test_nothing_to_rank_is_no_number() -> None:
    result = RankingMetrics.of(np.zeros((1, 6)), [5]).result()
    assert math.isnan(result["recall@5"])
    assert math.isnan(result["ndcg@5"])
    assert result["ranked_examples"] == 0


def test_other_cutoffs_or_shapes_are_refused() -> None:
    one = RankingMetrics.of(np.zeros((1, 2)), [1])
    with pytest.raises(ValueError, match=r"at \(1,\) of up to 1 relevant items cannot be merged"):
        one.merge(RankingMetrics.of(np.zeros((1, 3)), [2]))
    with pytest.raises(ValueError, match="up to 2"):
        one.merge(RankingMetrics.of(np.zeros((2, 2)), [1]))
    with pytest.raises(ValueError, match=r"need \[most relevant, 3\]: count with depth=2"):
        RankingMetrics.of(np.zeros((1, 4)), [1, 2])
    for cutoffs in ([], [0]):
        with pytest.raises(ValueError, match="positive numbers k"):
            RankingMetrics.of(np.zeros((1, 1)), cutoffs)
