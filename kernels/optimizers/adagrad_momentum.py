"""Adagrad with momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels.optimizers.base import HyperParameter, Initializer, LearningRate, OptimizerSpec

__all__ = ["AdagradMomentumOptimizerSpec", "AdagradMomentumSlotVariables"]


class AdagradMomentumSlotVariables(NamedTuple):
    """Slot variables of Adagrad with momentum, each as wide as the table."""

    accumulator: Any
    """Sum, or running mean, of squared gradients."""
    momentum: Any
    """Decaying sum of scaled gradients."""


class AdagradMomentumOptimizerSpec(OptimizerSpec):
    r"""Adagrad whose scaled gradients gather momentum.

    .. math::
        a &\leftarrow \begin{cases} a + g^2 & \beta_2 = 1 \\
            \beta_2 a + (1 - \beta_2) g^2 & \text{otherwise} \end{cases} \\
        s &= (a + \epsilon)^{-1/k} g \\
        m &\leftarrow \mu m + s \\
        w &\leftarrow w - \eta \begin{cases} \mu m + s & \text{with Nesterov's look-ahead} \\
            m & \text{otherwise} \end{cases}

    The accumulator is that of `Duchi et al., 2011 <https://jmlr.org/papers/v12/duchi11a.html>`__,
    momentum as in `Sutskever et al., 2013 <https://proceedings.mlr.press/v28/sutskever13.html>`__;
    their combination is that of TPUEmbedding's AdagradMomentum parameters in TensorFlow
    (``optimization_parameters.proto``) and of jax-tpu-embedding. An entry with gradient 0 moves on
    with its momentum.

    Attributes:
        learning_rate: :math:`\eta`.
        momentum: :math:`\mu`.
        beta2: :math:`\beta_2`; 1 sums all squared gradients up.
        epsilon: :math:`\epsilon`.
        exponent: :math:`k`; 2 is the square root.
        use_nesterov: Whether to look ahead.
        initial_accumulator_value: First value of :math:`a`.
        initial_momentum_value: First value of :math:`m`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        momentum: HyperParameter = 0.9,
        beta2: HyperParameter = 1.0,
        epsilon: HyperParameter = 1e-10,
        exponent: HyperParameter = 2.0,
        use_nesterov: bool = False,
        initial_accumulator_value: float = 0.1,
        initial_momentum_value: float = 0.0,
    ) -> None:
        super().__init__(learning_rate)
        self.momentum = momentum
        self.beta2 = beta2
        self.epsilon = epsilon
        self.exponent = exponent
        self.use_nesterov = use_nesterov
        self.initial_accumulator_value = initial_accumulator_value
        self.initial_momentum_value = initial_momentum_value

    def short_name(self) -> str:
        """``adagrad_momentum``."""
        return "adagrad_momentum"

    def parameters(self) -> dict[str, Any]:
        """See `OptimizerSpec.parameters`."""
        return super().parameters() | self._named(
            "momentum",
            "beta2",
            "epsilon",
            "exponent",
            "use_nesterov",
            "initial_accumulator_value",
            "initial_momentum_value",
        )

    def get_hyperparameters(self, step: jax.Array | int | None = None) -> tuple[jax.Array, ...]:
        """Learning rate, momentum, beta2, epsilon, exponent, and ``use_nesterov`` as a bool."""
        return (
            *self._values(step, "momentum", "beta2", "epsilon", "exponent"),
            jnp.asarray(self.use_nesterov, dtype=jnp.bool_),
        )

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """Both slots start at a constant."""
        return AdagradMomentumSlotVariables(
            accumulator=jax.nn.initializers.constant(self.initial_accumulator_value),
            momentum=jax.nn.initializers.constant(self.initial_momentum_value),
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
        rate, decay, beta2, epsilon, exponent, use_nesterov = hyperparameters
        accumulator, momentum = slots
        square = gradient * gradient
        accumulator = jnp.where(
            beta2 == 1.0, accumulator + square, beta2 * accumulator + (1.0 - beta2) * square
        )
        scale = jnp.power(accumulator + epsilon, -1.0 / exponent)
        # 0^(-1/k) is infinite: an entry that never had a gradient would become NaN.
        scaled = jnp.where(gradient == 0, 0.0, scale * gradient)
        momentum = decay * momentum + scaled
        change = jnp.where(use_nesterov, decay * momentum + scaled, momentum)
        return table - rate * change, (accumulator, momentum)
