"""How far the values of a feature are apart in the label, told from a sample.

Were every value of a feature (every user, say) to add a number of its own to the logit, what would
the standard deviation of these numbers be? Of a value with ``n`` samples, ``k`` of them positive,

    E[(k - n p)²]  =  n p (1 - p)  +  n (n - 1) t        p: share of positives
                      by chance       t: variance of the values' own shares

so ``t`` is known from many values with few samples each, where no single share is (the method of
moments, as for beta-binomial counts: Kleinman, "Proportions with extraneous variance", 1973). What
variance of the logits makes shares of that variance, is looked up by quadrature.

Other features blur this one: where they spread the logits too, shares lie closer to each other than
this feature alone would have them. By the usual approximation of a logistic curve by a normal one,
the logits' variance is larger by ``1 + 0.346 v``, ``v`` being that of the others (Zeger, Liang and
Albert, "Models for longitudinal data", 1988).

These are estimates: of a handful of values they come out small, as the share of positives is that
of these very values, and features that say the same (a city and its region) count twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["deviations", "variance_of_logits"]

LEAST, MOST = 0.05, 2.0
"""Bounds of a deviation: none is certain to be 0, and few samples can say anything."""

_BLUR = (16 * math.sqrt(3) / (15 * math.pi)) ** 2
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_HALVINGS = 40


def deviations(ids: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Standard deviations of what the values of each feature add to the logit.

    Where rows have several, a row gets their mean, so a value alone is worth that many times more.

    Args:
        ids: By feature, int ``[n, valency]``, negative where there is none.
        labels: 0 or 1, ``[n]``.
    """
    alone = {name: variance_of_logits(given, labels) for name, given in ids.items()}
    total = sum(alone.values())
    found = {}
    for name, own in alone.items():
        deviation = math.sqrt(own * (1 + _BLUR * (total - own)))
        found[name] = min(MOST, max(LEAST, _ids_of_a_row(ids[name]) * deviation))
    return found


def variance_of_logits(ids: np.ndarray, labels: np.ndarray) -> float:
    """Variance of what the values add to the logit, as if there were no other feature.

    Args:
        ids: int ``[n, valency]``, negative where there is none.
        labels: 0 or 1, ``[n]``.
    """
    given = _without_repeats(ids)
    labels = np.repeat(labels, ids.shape[1])[given.ravel() >= 0]
    _, values = np.unique(given[given >= 0], return_inverse=True)
    samples = np.bincount(values).astype(float)
    positives = np.bincount(values, labels)[samples > 1]
    samples = samples[samples > 1]
    share = float(np.mean(labels)) if len(labels) else 0.0
    if not len(samples) or not 0 < share < 1:
        return 0.0
    by_chance = samples * share * (1 - share)
    # Each value counts by its samples, not by their square: else the largest would drown the rest.
    surplus = np.sum((np.square(positives - samples * share) - by_chance) / samples)
    return _logits_for(surplus / np.sum(samples - 1), share)


def _without_repeats(ids: np.ndarray) -> np.ndarray:
    """Every row with each of its ids once: the same row again is no further sample."""
    if ids.shape[1] == 1:
        return ids
    ordered = np.sort(ids, axis=1)
    again = ordered[:, 1:] == ordered[:, :-1]
    ordered[:, 1:][again] = -1
    return ordered


def _ids_of_a_row(ids: np.ndarray) -> float:
    """How many ids rows have on average, of those that have any."""
    count = np.sum(ids >= 0, axis=1)
    return float(np.mean(count[count > 0])) if np.any(count) else 1.0


def _logits_for(variance: float, share: float) -> float:
    """Variance of normal logits whose shares have this mean and variance."""
    return _last(lambda one: _of_shares(one, share) < variance, 0.0, MOST**2)


def _of_shares(variance: float, share: float) -> float:
    """Variance of the shares that normal logits of a variance have, if their mean is ``share``."""
    spread = math.sqrt(variance) * _NODES
    middle = _last(lambda one: np.dot(_WEIGHTS, _shares(one + spread)) < share, -30.0, 30.0)
    return float(np.dot(_WEIGHTS, np.square(_shares(middle + spread)))) - share**2


def _last(holds: Callable[[float], Any], low: float, high: float) -> float:
    """Up to where it holds, of what holds from ``low`` on and no longer at ``high``; by halving."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _shares(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
