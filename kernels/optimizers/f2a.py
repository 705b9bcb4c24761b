"""F2A, frequency-aware Adagrad."""

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

__all__ = ["F2AOptimizerSpec", "F2ASlotVariables"]


class F2ASlotVariables(NamedTuple):
    """Slot variables of F2A, each as wide as the table."""

    accumulator: Any
    """Sum of squared gradients."""
    local_step: Any
    """How often the row was updated; the same in all its columns."""


class F2AOptimizerSpec(OptimizerSpec):
    r"""Adagrad with longer steps for rows that are seen rarely.

    .. math::
        l &\leftarrow l + 1, \qquad a \leftarrow a + g^2 \\
        f &= \min\left((\max(t, 1) / l)^\rho, f_{max}\right) \\
        w &\leftarrow w - \eta \left( f g / \sqrt{a} +
            \lambda_1 \, \mathrm{sign}(w) + \lambda_2 w \right)

    with the training step :math:`t` and the row's own number of updates :math:`l`. The formula is
    that of jax-tpu-embedding 0.2.0, which cites no paper; the accumulator is Adagrad's
    (`Duchi et al., 2011 <https://jmlr.org/papers/v12/duchi11a.html>`__). Regularization moves the
    rows of the batch only.

    Attributes:
        learning_rate: :math:`\eta`.
        rho: :math:`\rho`; 0 gives plain Adagrad.
        initial_accumulator_value: First value of :math:`a`.
        initial_local_step_value: First value of :math:`l`.
        l1_regularization_strength: :math:`\lambda_1`.
        l2_regularization_strength: :math:`\lambda_2`.
        max_lr_multiplier: :math:`f_{max}`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        rho: HyperParameter = 0.5,
        initial_accumulator_value: float = 0.1,
        initial_local_step_value: float = 0.0,
        l1_regularization_strength: HyperParameter = 0.0,
        l2_regularization_strength: HyperParameter = 0.0,
        max_lr_multiplier: HyperParameter = 1e6,
    ) -> None:
        super().__init__(learning_rate)
        self.rho = rho
        self.initial_accumulator_value = initial_accumulator_value
        self.initial_local_step_value = initial_local_step_value
        self.l1_regularization_strength = l1_regularization_strength
        self.l2_regularization_strength = l2_regularization_strength
        self.max_lr_multiplier = max_lr_multiplier

    def short_name(self) -> str:
        """``f2a``."""
        return "f2a"

    def parameters(self) -> dict[str, Any]:
        """See `OptimizerSpec.parameters`."""
        return super().parameters() | self._named(
            "rho",
            "initial_accumulator_value",
            "initial_local_step_value",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "max_lr_multiplier",
        )

    def get_hyperparameters(self, step: jax.Array | int | None = None) -> tuple[jax.Array, ...]:
        """Learning rate, rho, L1 and L2 strength, the largest factor, and the step (0 if None)."""
        step = 0 if step is None else step
        return (
            *self._values(
                step,
                "rho",
                "l1_regularization_strength",
                "l2_regularization_strength",
                "max_lr_multiplier",
            ),
            jnp.asarray(step, dtype=jnp.float32),
        )

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """Both slots start at a constant."""
        return F2ASlotVariables(
            accumulator=jax.nn.initializers.constant(self.initial_accumulator_value),
            local_step=jax.nn.initializers.constant(self.initial_local_step_value),
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
        rate, rho, l1, l2, largest, step = hyperparameters
        accumulator, local_step = slots
        local_step = local_step + 1.0
        factor = jnp.power(jnp.maximum(step, 1.0) / local_step, rho)
        factor = jnp.minimum(factor, largest)
        accumulator = accumulator + gradient * gradient
        adaptive = divide_or_zero(gradient * factor, jnp.sqrt(accumulator))
        change = adaptive + (l1 * jnp.sign(table) + l2 * table)
        return table - rate * change, (accumulator, local_step)
