"""What the dense part of a step costs: operations and parameters, counted without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from workers.program import Program
from workers.training import logits_of

__all__ = ["DenseCost", "dense_cost"]


@dataclass(frozen=True)
class DenseCost:
    """Of one device and step."""

    operations: float
    """Floating-point operations of the model and its gradients, as XLA counts them."""
    parameter_bytes: int
    """Of the model's parameters, as stored: their gradients are summed over all devices."""


def dense_cost(program: Program, samples: int) -> DenseCost:
    """Count what the model takes for so many samples, forward and backward.

    Nothing is computed or compiled; JAX's platform must be the CPU.

    Args:
        program: What would be trained.
        samples: Samples of one device.
    """
    activations = {
        name: jax.ShapeDtypeStruct(spec.output_shape, jnp.float32)
        for name, spec in program.feature_specs(samples).items()
    }
    dense = jax.ShapeDtypeStruct((samples, len(program.dense)), jnp.float32)
    labels = jax.ShapeDtypeStruct((samples,), jnp.float32)
    parameters = jax.eval_shape(
        lambda a, d: program.model.init(jax.random.key(0), a, d), activations, dense
    )

    def loss(parameters: Any, activations: Any, dense: Any, labels: Any) -> jax.Array:
        logits = logits_of(program, parameters, activations, dense)
        return jnp.mean(program.loss(logits, labels, activations))

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    counted = step.lower(parameters, activations, dense, labels).cost_analysis()
    leaves = jax.tree.leaves(parameters)
    return DenseCost(
        operations=float(dict(counted or {}).get("flops", 0.0)),
        parameter_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
    )
