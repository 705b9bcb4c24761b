"""The small program as two towers, which orders the items of a batch for every sample's tags."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.workers.small_program import program as small_program
from workers import Number, Program, Ranking
from workers.ranking import in_batch


class TwoTowers(nn.Module):
    """The product of both rows, and nothing to learn beside them but a bias."""

    @nn.compact
    def __call__(self, activations: dict[str, jax.Array], dense: jax.Array) -> jax.Array:
        bias = self.param("bias", nn.initializers.zeros, ())
        return jnp.sum(activations["item"] * activations["tags"], axis=-1) + bias

    def rank(
        self, activations: dict[str, jax.Array], dense: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The items of the batch, told apart by the dense column."""
        return in_batch(activations["tags"], activations["item"], keys=dense[:, 0])


def program(cutoffs: tuple[int, ...] = (1, 5), method: str = "rank") -> Program:
    return dataclasses.replace(
        small_program(),
        model=TwoTowers(),
        dense=(Number("item", mean=-1.0),),
        ranking=Ranking(cutoffs, method),
    )
