"""The ground truth of the synthetic click log, and the best AUC that any model can reach on it.

The log-odds of a click are a sum of effects, each of mean 0 and variance 1 over its values:

    z = BIAS + USER·u(user) + ITEM·i(item) + HOUR·h(hour)
        + CROSS·c(group of user, group of item)
        + HISTORY·mean over past items p of  a(group of p, group of item)
        + PRICE·price + AGE·quadratic(age)

Users and items belong to one of ``GROUPS`` groups. Effects and groups are hashes of (seed, name,
id): no table of them exists, so there may be any number of users and items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.data.transforms.hashing import mix

__all__ = ["BestPossible", "best_possible", "click_probability", "expected_auc"]

GROUPS = 6
BIAS, USER, ITEM, HOUR, CROSS, HISTORY, PRICE, AGE = -1.2, 0.5, 0.7, 0.3, 0.9, 1.2, 0.5, 0.4

_NAMES = ("user", "item", "hour", "user group", "item group", "cross", "affinity")
_SALTS = {name: np.uint64(0xD1B54A32D192ED03 * (k + 1) % 2**64) for k, name in enumerate(_NAMES)}


def _hashes(name: str, ids: np.ndarray, seed: int) -> np.ndarray:
    salted = ids.astype(np.uint64).ravel() ^ _SALTS[name] ^ mix(np.array([seed], np.uint64))
    return mix(salted).reshape(ids.shape)


def _effect(name: str, ids: np.ndarray, seed: int) -> np.ndarray:
    """Uniform over [-√3, √3), so of mean 0 and variance 1."""
    unit = (_hashes(name, ids, seed) >> np.uint64(11)) * 2.0**-53
    return (2 * unit - 1) * np.sqrt(3.0)


def _group(name: str, ids: np.ndarray, seed: int) -> np.ndarray:
    return (_hashes(name, ids, seed) % np.uint64(GROUPS)).astype(np.int64)


def click_probability(
    seed: int,
    *,
    user: np.ndarray,
    item: np.ndarray,
    hour: np.ndarray,
    history: np.ndarray,
    lengths: np.ndarray,
    price: np.ndarray,
    age: np.ndarray,
) -> np.ndarray:
    """The probability of a click, float64 ``[n]``.

    Args:
        seed: Of the log.
        user: Integers ``[n]``.
        item: Integers ``[n]``.
        hour: Integers ``[n]``.
        history: Items, integers ``[n, longest]``.
        lengths: How many of each row's history count, ``[n]``.
        price: Floats ``[n]`` of mean 0 and variance 1.
        age: Floats ``[n]``, uniform over [-√3, √3).
    """
    of_user, of_item = _group("user group", user, seed), _group("item group", item, seed)
    past = _group("item group", history, seed) * GROUPS + of_item[:, None]
    counted = np.arange(history.shape[1]) < lengths[:, None]
    affinity = np.where(counted, _effect("affinity", past, seed), 0.0).sum(axis=1)
    logit = (
        BIAS
        + USER * _effect("user", user, seed)
        + ITEM * _effect("item", item, seed)
        + HOUR * _effect("hour", hour, seed)
        + CROSS * _effect("cross", of_user * GROUPS + of_item, seed)
        + HISTORY * affinity / np.maximum(lengths, 1)
        + PRICE * price
        + AGE * (age * age - 1) * np.sqrt(1.25)
    )
    return 1 / (1 + np.exp(-logit))


@dataclass(frozen=True)
class BestPossible:
    """What predicting the true probabilities comes to.

    Attributes:
        auc: Area under the ROC curve: no model's is larger, in expectation over labels.
        auc_error: Three standard errors of ``auc``, from the scatter between parts of the sample.
        loss: Mean logistic loss in nats, the least possible.
    """

    auc: float
    auc_error: float
    loss: float


def expected_auc(probabilities: np.ndarray) -> float:
    """AUC of true probabilities as predictions, expected over the labels drawn from them.

    The chance that of two different samples, one with a click and one without, the first has the
    higher probability; equal ones count half:

        Σ_{i≠j} p_i (1 - p_j) ([p_i > p_j] + [p_i = p_j] / 2)  /  Σ_{i≠j} p_i (1 - p_j)
    """
    values, group = np.unique(probabilities, return_inverse=True)
    counts = np.bincount(group)
    clicks, others = counts * values, counts * (1 - values)
    below = np.cumsum(others) - others
    itself = float(np.sum(probabilities * (1 - probabilities)))
    wins = float(np.sum(clicks * (below + 0.5 * others))) - 0.5 * itself
    return wins / (float(clicks.sum()) * float(others.sum()) - itself)


def best_possible(parts: Sequence[np.ndarray]) -> BestPossible:
    """The best figures, from true probabilities of independent samples of equal size.

    Args:
        parts: At least two; their scatter gives the error.
    """
    whole = np.concatenate(parts)
    aucs = [expected_auc(part) for part in parts]
    error = 3 * float(np.std(aucs, ddof=1)) / len(parts) ** 0.5
    entropy = -(whole * np.log(whole) + (1 - whole) * np.log1p(-whole))
    return BestPossible(expected_auc(whole), error, float(entropy.mean()))
