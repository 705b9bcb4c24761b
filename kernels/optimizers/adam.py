"""Adam."""

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

__all__ = ["AdamOptimizerSpec", "AdamSlotVariables"]


class AdamSlotVariables(NamedTuple):
    """Slot variables of Adam, each as wide as the table."""

    momentum: Any
    """Running mean of the gradients, m."""
    velocity: Any
    """Running mean of the squared gradients, v."""


class AdamOptimizerSpec(OptimizerSpec):
    r"""Adam: steps along a running mean of gradients, scaled by that of their squares.

    .. math::
        m \leftarrow m + (1 - \beta_1)(g - m), \qquad
        v \leftarrow v + (1 - \beta_2)(g^2 - v), \qquad
        w \leftarrow w - \alpha_t \, m / (\sqrt{v} + \hat\epsilon_t)

    with the bias corrections put into the step size, as at the end of section 2 of
    `Kingma and Ba, 2014 <https://arxiv.org/abs/1412.6980>`__, for the update number
    :math:`t = \mathrm{step} + 1`:

    .. math::
        \alpha_t = \eta \sqrt{1 - \beta_2^t} / (1 - \beta_1^t), \qquad
        \hat\epsilon_t = \epsilon \sqrt{1 - \beta_2^t}

    Only the rows of the batch move, and only their means decay ("lazy" Adam). The corrections go by
    the step that is given, not by how often a row was seen; without a step they are those of the
    first one.

    Attributes:
        learning_rate: :math:`\eta`.
        beta_1: :math:`\beta_1`, how much of the mean gradient stays.
        beta_2: :math:`\beta_2`, how much of the mean squared gradient stays.
        epsilon: :math:`\epsilon`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: HyperParameter = 0.9,
        beta_2: HyperParameter = 0.999,
        epsilon: HyperParameter = 1e-8,
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def short_name(self) -> str:
        """``adam``."""
        return "adam"

    def parameters(self) -> dict[str, Any]:
        """See `OptimizerSpec.parameters`."""
        return super().parameters() | self._named("beta_1", "beta_2", "epsilon")

    def get_hyperparameters(self, step: jax.Array | int | None = None) -> tuple[jax.Array, ...]:
        r""":math:`(\alpha_t, \beta_1, \beta_2, \hat\epsilon_t)` for the update after ``step``."""
        step = 0 if step is None else step
        beta_1, beta_2 = self._value("beta_1", step), self._value("beta_2", step)
        correction = jnp.sqrt(1.0 - jnp.power(beta_2, step + 1))
        rate = self.get_learning_rate(step) * correction / (1.0 - jnp.power(beta_1, step + 1))
        return rate, beta_1, beta_2, self._value("epsilon", step) * correction

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """Both means start at 0."""
        return AdamSlotVariables(
            momentum=jax.nn.initializers.constant(0.0),
            velocity=jax.nn.initializers.constant(0.0),
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
        rate, beta_1, beta_2, epsilon = hyperparameters
        momentum, velocity = slots
        momentum = momentum + (1.0 - beta_1) * (gradient - momentum)
        velocity = velocity + (1.0 - beta_2) * (gradient * gradient - velocity)
        change = divide_or_zero(rate * momentum, jnp.sqrt(velocity) + epsilon)
        return table - change, (momentum, velocity)
