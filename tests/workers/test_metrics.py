"""Binned metrics against exact ones, and exact merging."""

from __future__ import annotations

import pickle
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.metrics import BINS, BinaryMetrics


def counted(predictions: np.ndarray, labels: np.ndarray) -> BinaryMetrics:
    bins = np.clip((predictions * BINS).astype(int), 0, BINS - 1)
    losses = -(labels * np.log(predictions) + (1 - labels) * np.log(1 - predictions))
    return BinaryMetrics(
        np.bincount(bins[labels == 1], minlength=BINS).astype(float),
        np.bincount(bins[labels == 0], minlength=BINS).astype(float),
        float(losses.sum()),
        float(len(labels)),
        float(predictions.sum()),
    )


def exact_auc(predictions: np.ndarray, labels: np.ndarray) -> float:
    positive, negative = predictions[labels == 1], predictions[labels == 0]
    above = (positive[:, None] > negative).mean()
    return float(above + 0.5 * (positive[:, None] == negative).mean())


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=3000)
    labels = (generator.random(3000) < 1 / (1 + np.exp(-scores + 1))).astype(int)
    return 1 / (1 + np.exp(-scores - generator.normal(size=3000))), labels


def test_auc_and_entropy_against_their_definitions(samples: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, labels = samples
    result = counted(predictions, labels).result()
    assert result["auc"] == pytest.approx(exact_auc(predictions, labels), abs=1e-3)
    rate = labels.mean()
    base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert result["normalised_entropy"] == pytest.approx(result["loss"] / base)
    assert result["calibration"] == pytest.approx(predictions.sum() / labels.sum())
    assert result["examples"] == 3000


def test_merging_parts_is_the_whole(samples: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, labels = samples
    merged = BinaryMetrics.empty()
    for part in np.array_split(np.arange(3000), 7):
        merged = merged.merge(counted(predictions[part], labels[part]))
    whole = counted(predictions, labels).result()
    assert merged.result() == pytest.approx(whole)
    assert merged.result()["auc"] == whole["auc"]


def test_the_total_is_what_merging_one_by_one_gives(samples: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, labels = samples
    parts = np.array_split(np.arange(3000), 5)
    shares = [counted(predictions[part], labels[part]) for part in parts]
    kept = shares[0].positives.copy()
    total, merged = BinaryMetrics.total(shares), reduce(BinaryMetrics.merge, shares)
    assert total.result() == merged.result()
    assert shares[0].positives.tolist() == kept.tolist()
    assert BinaryMetrics.total([]).weight == 0


@given(
    bins=st.dictionaries(st.sampled_from([0, 1, 77, BINS - 1]), st.floats(0.5, 1e9)),
    sums=st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9)),
)
def test_pickling_leaves_out_empty_bins_alone(
    bins: dict[int, float], sums: tuple[float, float, float]
) -> None:
    metrics = BinaryMetrics(np.zeros(BINS), np.zeros(BINS), *sums)
    for place, weight in bins.items():
        metrics.positives[place] = weight
        metrics.negatives[BINS - 1 - place] = 2 * weight
    data = pickle.dumps(metrics)
    assert len(data) < 1000
    same = pickle.loads(data)
    assert (same.loss, same.weight, same.predicted) == sums
    assert same.positives.tolist() == metrics.positives.tolist()
    assert same.negatives.tolist() == metrics.negatives.tolist()


def test_a_constant_prediction_has_auc_one_half() -> None:
    labels = np.array([0, 1, 1, 0, 0])
    assert counted(np.full(5, 0.3), labels).result()["auc"] == 0.5


def test_undefined_figures_are_nan() -> None:
    result = BinaryMetrics.empty().result()
    assert all(np.isnan(result[name]) for name in ("auc", "loss", "normalised_entropy"))


@given(
    weights=st.lists(st.integers(0, 3), min_size=2, max_size=200),
    spread=st.sampled_from([1e-5, 1e-3, 0.1, 1.0]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_the_auc_is_within_its_bound(weights: list[int], spread: float, seed: int) -> None:
    """Also where predictions crowd into few bins, so that the bound is wide."""
    generator = np.random.default_rng(seed)
    predictions = 0.3 + spread * 0.5 * generator.random(len(weights))
    labels = generator.integers(0, 2, len(weights))
    metrics = counted(np.repeat(predictions, weights), np.repeat(labels, weights))
    if not (metrics.positives.any() and metrics.negatives.any()):
        assert np.isnan(metrics.auc_error_bound)
        return
    exact = exact_auc(np.repeat(predictions, weights), np.repeat(labels, weights))
    assert abs(metrics.result()["auc"] - exact) <= metrics.auc_error_bound + 1e-12


def test_the_bound_is_tight_where_all_predictions_share_a_bin() -> None:
    metrics = counted(np.array([0.30001, 0.30002]), np.array([0, 1]))
    assert metrics.auc_error_bound == 0.5
    assert exact_auc(np.array([0.30001, 0.30002]), np.array([0, 1])) == 1.0
    assert metrics.result()["auc"] == 0.5


def test_the_bound_is_small_for_spread_predictions(
    samples: tuple[np.ndarray, np.ndarray],
) -> None:
    assert counted(*samples).auc_error_bound < 1e-3


def test_accuracy_is_exact(samples: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, labels = samples
    predictions = np.concatenate([predictions, [0.5, 0.5, np.nextafter(0.5, 0)]])
    labels = np.concatenate([labels, [1, 0, 0]])
    result = counted(predictions, labels).result()
    assert result["accuracy"] == ((predictions >= 0.5) == (labels == 1)).mean()


@given(seed=st.integers(0, 2**31), parts=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_any_spread_over_hosts_gives_the_same_counts(seed: int, parts: int) -> None:
    generator = np.random.default_rng(seed)
    predictions, labels = generator.uniform(0.01, 0.99, 200), generator.integers(0, 2, 200)
    whole, merged = counted(predictions, labels), BinaryMetrics.empty()
    order = generator.permutation(200)
    cuts = np.sort(generator.integers(0, 201, parts - 1))
    for rows in np.split(order, cuts):
        merged = merged.merge(counted(predictions[rows], labels[rows]))
    for exact in ("auc", "accuracy", "examples"):
        assert merged.result()[exact] == pytest.approx(whole.result()[exact], abs=0, nan_ok=True)
    assert merged.result() == pytest.approx(whole.result(), rel=1e-12)
