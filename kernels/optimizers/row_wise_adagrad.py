"""Adagrad with one accumulator per row."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels.optimizers.base import Initializer, LearningRate, OptimizerSpec

__all__ = ["RowWiseAdagradOptimizerSpec", "RowWiseAdagradSlotVariables"]


class RowWiseAdagradSlotVariables(NamedTuple):
    """Slot variables of row-wise Adagrad."""

    accumulator: Any
    """Sum over steps of the row's mean squared gradient, one column wide."""


class RowWiseAdagradOptimizerSpec(OptimizerSpec):
    r"""Adagrad that keeps one number per row instead of one per entry.

    .. math::
        a \leftarrow a + \frac{1}{D} \sum_{j=1}^{D} g_j^2, \qquad
        w \leftarrow w - \frac{\eta}{\sqrt{a} + \epsilon} g

    with :math:`D` the table's ``embedding_dim`` (padding columns do not count). The form and its
    name are those of FBGEMM (``EXACT_ROWWISE_ADAGRAD``, rowwise_adagrad in fbgemm_gpu's generated
    optimizers). It takes :math:`1/D` of Adagrad's memory.

    Attributes:
        learning_rate: :math:`\eta`.
        initial_accumulator_value: First value of :math:`a`.
        epsilon: :math:`\epsilon`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def short_name(self) -> str:
        """``row_wise_adagrad``."""
        return "row_wise_adagrad"

    def parameters(self) -> dict[str, Any]:
        """See `OptimizerSpec.parameters`."""
        return super().parameters() | self._named("initial_accumulator_value", "epsilon")

    def get_hyperparameters(self, step: jax.Array | int | None = None) -> tuple[jax.Array, ...]:
        """Learning rate and epsilon."""
        return (self.get_learning_rate(step), jnp.asarray(self.epsilon, dtype=jnp.float32))

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """The accumulator starts at a constant."""
        return RowWiseAdagradSlotVariables(
            accumulator=jax.nn.initializers.constant(self.initial_accumulator_value)
        )

    def slot_variables_widths(self, width: int) -> tuple[int, ...]:
        """One column, whatever the table's width."""
        return (1,)

    @property
    def mixes_columns(self) -> bool:
        """The mean runs over the row's columns."""
        return True

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
        learning_rate, epsilon = hyperparameters
        (accumulator,) = slots
        mean_square = jnp.sum(gradient * gradient, axis=-1, keepdims=True) / embedding_dim
        accumulator = accumulator + mean_square
        change = learning_rate / (jnp.sqrt(accumulator) + epsilon) * gradient
        return table - change, (accumulator,)
