"""Binned metrics against exact ones, and exact merging."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_a_constant_prediction_has_auc_one_half() -> None:
    labels = np.array([0, 1, 1, 0, 0])
    assert counted(np.full(5, 0.3), labels).result()["auc"] == 0.5


def test_undefined_figures_are_nan() -> None:
    result = BinaryMetrics.empty().result()
    assert all(np.isnan(result[name]) for name in ("auc", "loss", "normalised_entropy"))
