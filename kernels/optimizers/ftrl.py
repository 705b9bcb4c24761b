"""FTRL-Proximal."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels.optimizers.base import (
    HyperParameter,
    Initializer,
    LearningRate,
    OptimizerSpec,
    divide_or_zero,
)

__all__ = ["FTRLOptimizerSpec", "FTRLSlotVariables"]


class FTRLSlotVariables(NamedTuple):
    """Slot variables of FTRL, each as wide as the table."""

    accumulator: Any
    """Sum of squared gradients, n."""
    linear: Any
    """Sum of gradients, less what the weights moved already, z."""


class FTRLOptimizerSpec(OptimizerSpec):
    r"""FTRL-Proximal: "follow the regularized leader", made for predicting clicks.

    .. math::
        n' &= n + g^2, \qquad \sigma = n'^{-p} - n^{-p} \\
        z' &= z + g - \frac{\sigma}{\eta} w \\
        w' &= \frac{\mathrm{clip}(z', -\lambda_1, \lambda_1) - z'}
                   {(n'^{-p} + \beta) / \eta + 2 \lambda_2}

    so a weight is exactly 0 while :math:`|z'| \le \lambda_1`.
    `McMahan et al., 2013 <https://research.google.com/pubs/archive/41159.pdf>`__, algorithm 1, with
    the power :math:`p` in place of the root, and twice their :math:`\lambda_2`, as in
    `tf.keras.optimizers.Ftrl` and jax-tpu-embedding.

    With ``multiply_linear_by_learning_rate`` the slot holds :math:`\eta z`, which stays in bounds
    when the rate is tiny:

    .. math::
        z' = z + \eta g - \sigma w, \qquad
        w' = \frac{\mathrm{clip}(z', -\eta \lambda_1, \eta \lambda_1) - z'}
                  {n'^{-p} + 2 \eta \lambda_2 + \beta}

    A weight is computed anew from its slots, it does not build on its old value: a table that did
    not start at 0 jumps at a row's first update. Without ``multiply_linear_by_learning_rate`` the
    formula divides by the learning rate, so a schedule must not pass through 0.

    Attributes:
        learning_rate: :math:`\eta`.
        learning_rate_power: :math:`p`, 0 or less; -0.5 for the square root.
        l1_regularization_strength: :math:`\lambda_1`, 0 or more.
        l2_regularization_strength: :math:`\lambda_2`, 0 or more.
        beta: :math:`\beta`.
        initial_accumulator_value: First value of :math:`n`.
        initial_linear_value: First value of :math:`z`.
        multiply_linear_by_learning_rate: Which of the two forms.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        learning_rate_power: HyperParameter = -0.5,
        l1_regularization_strength: HyperParameter = 0.0,
        l2_regularization_strength: HyperParameter = 0.0,
        beta: HyperParameter = 0.0,
        initial_accumulator_value: float = 0.1,
        initial_linear_value: float = 0.0,
        multiply_linear_by_learning_rate: bool = False,
    ) -> None:
        super().__init__(learning_rate)
        self.learning_rate_power = learning_rate_power
        self.l1_regularization_strength = l1_regularization_strength
        self.l2_regularization_strength = l2_regularization_strength
        self.beta = beta
        self.initial_accumulator_value = initial_accumulator_value
        self.initial_linear_value = initial_linear_value
        self.multiply_linear_by_learning_rate = multiply_linear_by_learning_rate

    def short_name(self) -> str:
        """``ftrl``."""
        return "ftrl"

    def parameters(self) -> dict[str, Any]:
        """See `OptimizerSpec.parameters`."""
        return super().parameters() | self._named(
            "learning_rate_power",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "beta",
            "initial_accumulator_value",
            "initial_linear_value",
            "multiply_linear_by_learning_rate",
        )

    def get_hyperparameters(self, step: jax.Array | int | None = None) -> tuple[jax.Array, ...]:
        """Learning rate and its power, L1 and L2 strength, beta."""
        return self._values(
            step,
            "learning_rate_power",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "beta",
        )

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """Both slots start at a constant."""
        return FTRLSlotVariables(
            accumulator=jax.nn.initializers.constant(self.initial_accumulator_value),
            linear=jax.nn.initializers.constant(self.initial_linear_value),
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
        rate, power, l1, l2, beta = hyperparameters
        accumulator, linear = slots
        new = accumulator + gradient * gradient
        root = jnp.power(new, -power)
        sigma = root - jnp.power(accumulator, -power)
        if self.multiply_linear_by_learning_rate:
            linear = linear + rate * gradient - sigma * table
            bound = l1 * rate
            denominator = root + 2.0 * (rate * l2) + beta
        else:
            linear = linear + gradient - sigma / rate * table
            bound = l1
            denominator = (root + beta) / rate + 2.0 * l2
        numerator = jnp.clip(linear, -bound, bound) - linear
        return divide_or_zero(numerator, denominator), (new, linear)
