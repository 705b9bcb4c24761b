"""Adagrad."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels.optimizers.base import Initializer, LearningRate, OptimizerSpec, divide_or_zero

__all__ = ["AdagradOptimizerSpec", "AdagradSlotVariables"]


class AdagradSlotVariables(NamedTuple):
    """Slot variables of Adagrad."""

    accumulator: Any
    """Sum of squared gradients, as wide as the table."""


class AdagradOptimizerSpec(OptimizerSpec):
    r"""Adagrad: steps shrink with the squared gradients an entry has seen.

    .. math::
        a \leftarrow a + g^2, \qquad w \leftarrow w - \eta g / \sqrt{a}

    `Duchi et al., 2011 <https://jmlr.org/papers/v12/duchi11a.html>`__, without an epsilon, as
    jax-tpu-embedding has it. An entry with gradient 0 does not move, also while its accumulator
    is still 0.

    Attributes:
        learning_rate: :math:`\eta`.
        initial_accumulator_value: First value of :math:`a`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float | jax.Array = 0.1,
    ) -> None:
        super().__init__(learning_rate)
        self.initial_accumulator_value = initial_accumulator_value

    def short_name(self) -> str:
        """``adagrad``."""
        return "adagrad"

    def parameters(self) -> dict[str, Any]:
        """See `OptimizerSpec.parameters`."""
        return super().parameters() | self._named("initial_accumulator_value")

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """The accumulator starts at a constant."""
        return AdagradSlotVariables(
            accumulator=jax.nn.initializers.constant(self.initial_accumulator_value)
        )

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
        (accumulator,) = slots
        accumulator = accumulator + gradient * gradient
        change = divide_or_zero(learning_rate * gradient, jnp.sqrt(accumulator))
        return table - change, (accumulator,)
