"""Stochastic gradient descent."""

from __future__ import annotations

from typing import NamedTuple

import jax

from kernels.optimizers.base import Initializer, LearningRate, OptimizerSpec

__all__ = ["SGDOptimizerSpec", "SGDSlotVariables"]


class SGDSlotVariables(NamedTuple):
    """SGD has no slot variables."""


class SGDOptimizerSpec(OptimizerSpec):
    r"""Stochastic gradient descent: :math:`w \leftarrow w - \eta g`.

    Attributes:
        learning_rate: :math:`\eta`.
    """

    def __init__(self, learning_rate: LearningRate = 0.001) -> None:
        super().__init__(learning_rate)

    def short_name(self) -> str:
        """``sgd``."""
        return "sgd"

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """None."""
        return SGDSlotVariables()

    def update(
        self,
        gradient: jax.Array,
        table: jax.Array,
        slots: tuple[jax.Array, ...],
        hyperparameters: tuple[jax.Array, ...],
        *,
        embedding_dim: int,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """See `OptimizerSpec.update`."""
        (learning_rate,) = hyperparameters
        return table - learning_rate * gradient, slots
