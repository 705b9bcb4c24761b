"""What a sample tells of how far the values of features are apart."""

from __future__ import annotations

import numpy as np
import pytest

from workers.data.effects import LEAST, MOST, deviations, variance_of_logits


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def drawn(seed: int, own: dict[str, float], values: int, rows: int, base: float = 0.0):
    """Ids of features whose values add normal numbers of these deviations to the logit."""
    r = np.random.default_rng(seed)
    ids = {name: r.integers(0, values, (rows, 1)) for name in own}
    logits = base + sum(
        r.normal(0, deviation, values)[ids[name][:, 0]] for name, deviation in own.items()
    )
    return ids, (r.random(rows) < sigmoid(logits)).astype(np.float32)


@pytest.mark.parametrize("deviation", [0.3, 0.7, 1.2])
@pytest.mark.parametrize(("values", "rows", "base"), [(20_000, 60_000, 0.0), (1500, 60_000, -2.0)])
def test_the_deviation_of_one_feature_is_found(deviation, values, rows, base):
    ids, labels = drawn(1, {"user": deviation}, values, rows, base)
    assert deviations(ids, labels)["user"] == pytest.approx(deviation, rel=0.15)


def test_features_do_not_hide_each_other():
    own = {"user": 1.2, "item": 0.8, "noise": 0.0}
    ids, labels = drawn(2, own, 2000, 100_000)
    found = deviations(ids, labels)
    assert found["user"] == pytest.approx(1.2, rel=0.1)
    assert found["item"] == pytest.approx(0.8, rel=0.1)
    assert found["noise"] < 0.15
    assert variance_of_logits(ids["user"], labels) < 1.2**2, "without the others it looks smaller"


@pytest.mark.parametrize("most", [1, 3, 6])
def test_lists_of_which_a_row_gets_the_mean(most):
    r = np.random.default_rng(3)
    ids = np.where(r.random((100_000, most)) < 0.2, -1, r.integers(0, 500, (100_000, most)))
    effects = np.append(r.normal(0, 1, 500), 0.0)
    logits = effects[ids].sum(axis=1) / np.maximum(1, (ids >= 0).sum(axis=1))
    labels = (r.random(100_000) < sigmoid(logits)).astype(np.float32)
    assert deviations({"tags": ids}, labels)["tags"] == pytest.approx(1, rel=0.2)


def test_padding_and_repeats_are_no_samples():
    r = np.random.default_rng(4)
    labels = (r.random(20_000) < 0.5).astype(np.float32)
    nothing = np.full((20_000, 2), -1)
    assert deviations({"none": nothing}, labels) == {"none": LEAST}
    often = np.repeat(r.integers(0, 5000, (20_000, 1)), 5, axis=1)
    assert variance_of_logits(often, labels) == variance_of_logits(often[:, :1], labels) < 0.05


@pytest.mark.parametrize("labels", [np.zeros(100), np.ones(100), np.arange(100) % 2])
def test_extremes_stay_in_bounds(labels):
    once = np.arange(100)[:, None]
    same = np.zeros((100, 1), int)
    telling = labels.astype(int)[:, None]
    found = deviations({"once": once, "same": same, "telling": telling}, labels)
    assert found["once"] == found["same"] == LEAST
    assert found["telling"] == pytest.approx(LEAST if labels.min() == labels.max() else MOST)
