"""Moments: mean and deviation of numbers, chunk by chunk."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of numbers; chunks merge.

    Merging is that of Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for
    computing sample variances", 1979), which loses no precision to a large mean.

    Example:
        >>> (Moments.of(np.array([1.0, 2.0])) + Moments.of(np.array([3.0]))).mean
        2.0
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of (value - mean)²."""

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Moments of float64 ``[n]``."""
        if not values.size:
            return cls()
        mean = float(values.mean())
        return cls(values.size, mean, float(np.square(values - mean).sum()))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        squares = self.squares + other.squares + apart**2 * self.count * other.count / count
        return Moments(count, mean, squares)

    @property
    def deviation(self) -> float:
        """Standard deviation of the population; 0 without values."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0
