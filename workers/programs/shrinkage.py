"""A loss that shrinks the rows of tables by how little is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

__all__ = ["ShrunkCrossEntropy"]


@dataclass(frozen=True)
class ShrunkCrossEntropy:
    """Logistic loss, plus squares of the activations, weighted feature by feature.

    A row of a table whose numbers come from a normal distribution of variance ``v``, and which
    ``n`` samples look up, has ``1 / (2 v n)`` as the weight of its square in the mean loss of
    these: a row that is seldom seen stays near 0, one that is seen often is free. So a penalty
    falls with the number of samples a row has. The first column, which a `RankingModel` with
    ``linear`` adds to the logit as it is, has a weight of its own, as the two parts of a
    factorization machine have (Rendle, "Factorization Machines with libFM", 2012). The others
    interact with those of other features, so that of each pair less is known than of a row: all of
    them have a penalty more.

    Attributes:
        penalties: Pairs of a feature's name and its penalty.
        interaction_penalty: What is added to all penalties, but for the first column.
        shrinkage: Weight of the squares in penalties, but for the first column.
        linear_shrinkage: Weight of the square of the first column in penalties.
    """

    penalties: tuple[tuple[str, float], ...]
    interaction_penalty: float
    shrinkage: float
    linear_shrinkage: float

    def __call__(
        self, logits: jax.Array, labels: jax.Array, activations: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Loss of every sample, ``[n]``, from activations ``{feature: [n, width]}``."""
        losses = optax.sigmoid_binary_cross_entropy(logits, labels)
        for name, penalty in self.penalties:
            squares = jnp.square(activations[name])
            losses += self.linear_shrinkage * penalty * squares[:, 0]
            others = self.shrinkage * (penalty + self.interaction_penalty)
            losses += others * jnp.sum(squares[:, 1:], axis=-1)
        return losses
