"""LaProp."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels.errors import SpecError
from kernels.optimizers.base import (
    HyperParameter,
    Initializer,
    LearningRate,
    OptimizerSpec,
    divide_or_zero,
)

__all__ = ["LaPropOptimizerSpec", "LaPropSlotVariables"]


class LaPropSlotVariables(NamedTuple):
    """Slot variables of LaProp, each as wide as the table."""

    mu: Any
    """Running mean of the scaled gradients."""
    nu: Any
    """Running mean of the squared gradients."""


class LaPropOptimizerSpec(OptimizerSpec):
    r"""LaProp: Adam with the gradient scaled before it enters the momentum, not after.

    .. math::
        \nu \leftarrow \gamma_t \nu + (1 - \gamma_t)(g^2 + \epsilon), \qquad
        \mu \leftarrow b_1 \mu + \sqrt{1 - b_1^2} \; g / \sqrt{\nu}, \qquad
        w \leftarrow w - \eta \mu

    `Ziyin et al., 2020 <https://arxiv.org/abs/2002.04839>`__, in the form of jax-tpu-embedding: the
    square root in front of the scaled gradient keeps the variance of :math:`\mu` at 1, and

    .. math:: \gamma_t = b_2 (1 - b_2^t) / (1 - b_2^{t+1}), \qquad t = \mathrm{step}

    corrects the bias of :math:`\nu`. Without a step, :math:`\gamma_t = b_2`.

    Attributes:
        learning_rate: :math:`\eta`.
        b1: :math:`b_1`, how much of the momentum stays.
        b2: :math:`b_2`, how much of the mean squared gradient stays.
        eps: :math:`\epsilon`, added to the squared gradient.
        initial_slot_value: First value of both slots.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        b1: HyperParameter = 0.9,
        b2: HyperParameter = 0.95,
        eps: HyperParameter = 1e-30,
        rms_clip_threshold: float | None = None,
        initial_slot_value: float = 0.0,
    ) -> None:
        if rms_clip_threshold is not None:
            raise SpecError(
                "rms_clip_threshold is not yet supported in LaProp optimizer: got "
                f"{rms_clip_threshold}; pass None"
            )
        super().__init__(learning_rate)
        self.b1 = b1
        self.b2 = b2
        self.eps = eps
        self.initial_slot_value = initial_slot_value

    def short_name(self) -> str:
        """``laprop``."""
        return "laprop"

    def parameters(self) -> dict[str, Any]:
        """See `OptimizerSpec.parameters`."""
        return super().parameters() | self._named("b1", "b2", "eps", "initial_slot_value")

    def get_decay_rate(self, step: jax.Array | int | None = None) -> jax.Array:
        r""":math:`\gamma_t` at ``step``, a float32 scalar."""
        b2 = self._value("b2", step)
        if step is None:
            return b2
        decayed = b2 * (1.0 - jnp.power(b2, step)) / (1.0 - jnp.power(b2, step + 1.0))
        return jnp.asarray(decayed, dtype=jnp.float32)

    def get_hyperparameters(self, step: jax.Array | int | None = None) -> tuple[jax.Array, ...]:
        r"""Learning rate, b1, :math:`\gamma_t`, eps."""
        return (
            self.get_learning_rate(step),
            self._value("b1", step),
            self.get_decay_rate(step),
            self._value("eps", step),
        )

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """Both slots start at the same constant."""
        return LaPropSlotVariables(
            mu=jax.nn.initializers.constant(self.initial_slot_value),
            nu=jax.nn.initializers.constant(self.initial_slot_value),
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
        rate, b1, decay, eps = hyperparameters
        mu, nu = slots
        nu = nu * decay + (1.0 - decay) * (gradient * gradient + eps)
        scaled = divide_or_zero(gradient, jnp.sqrt(nu))
        mu = b1 * mu + jnp.sqrt(1.0 - b1 * b1) * scaled
        return table - rate * mu, (mu, nu)
