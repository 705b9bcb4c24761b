"""The dense part of a DLRM, in JAX, for `benchmarks.step` and `benchmarks.pipelining`.

Dense features go through a stack of layers; dot products of every two vectors, of the result and
the activations of all tables, go with it through another (Naumov et al., "Deep Learning
Recommendation Model", 2019).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.kernel_workloads import RATE
from benchmarks.preprocess_workloads import Workload

__all__ = ["COLUMNS", "dense_inputs", "make_parameters", "make_update", "pair_products"]

COLUMNS = 13
"""Dense features of a sample."""
BOTTOM, TOP = (256, 128), (256, 128)
"""Widths of the hidden layers."""
ACCUMULATOR = 0.1
"""What Adagrad's accumulators start from, for layers as for tables."""

Layers = list[tuple[Any, Any]]


def dense_inputs(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Dense features ``[batch, COLUMNS]`` and labels ``[batch]``."""
    rng = np.random.default_rng(11)
    dense = rng.normal(size=(workload.batch, COLUMNS)).astype(np.float32)
    return dense, rng.integers(0, 2, workload.batch).astype(np.float32)


def make_parameters(workload: Workload) -> tuple[Layers, Layers]:
    """Weights ``[in, out]`` and biases of both stacks, the same at every call."""
    rng = np.random.default_rng(12)
    vectors = workload.tables + 1

    def stack(sizes: Sequence[int]) -> Layers:
        return [
            (
                (rng.normal(size=(before, after)) / np.sqrt(before)).astype(np.float32),
                np.zeros(after, np.float32),
            )
            for before, after in itertools.pairwise(sizes)
        ]

    pairs = vectors * (vectors - 1) // 2
    return stack([COLUMNS, *BOTTOM, workload.width]), stack([workload.width + pairs, *TOP, 1])


@jax.custom_vjp
def pair_products(vectors: jax.Array) -> jax.Array:
    """Dot products of every two of ``[batch, n, width]``: ``[batch, n (n - 1) / 2]``.

    They come row by row of the upper triangle. The derivative is our own: one product does what
    takes two and a scatter in JAX's.
    """
    batch, count, _ = vectors.shape
    products = jnp.einsum("btw,bsw->bts", vectors, vectors).reshape(batch, -1)
    rows = [products[:, t * count + t + 1 : (t + 1) * count] for t in range(count - 1)]
    return jnp.concatenate(rows, axis=1)


def _pair_products_back(vectors: jax.Array, gradients: jax.Array) -> tuple[jax.Array]:
    count = vectors.shape[1]
    ends = np.cumsum([count - 1 - t for t in range(count)])
    rows = [
        jnp.pad(gradients[:, end - (count - 1 - t) : end], ((0, 0), (t + 1, 0)))
        for t, end in enumerate(ends)
    ]
    upper = jnp.stack(rows, axis=1)
    return (jnp.einsum("bts,bsw->btw", upper + upper.transpose(0, 2, 1), vectors),)


pair_products.defvjp(lambda vectors: (pair_products(vectors), vectors), _pair_products_back)


def _apply(layers: Layers, x: jax.Array, *, last_relu: bool) -> jax.Array:
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if last_relu or number < len(layers) - 1:
            x = jax.nn.relu(x)
    return x


def _loss(
    parameters: Any, activations: Mapping[str, jax.Array], dense: jax.Array, labels: jax.Array
) -> jax.Array:
    bottom, ((weight, bias), *rest) = parameters
    low = _apply(bottom, dense, last_relu=True)
    width = low.shape[1]
    vectors = jnp.stack([low, *(activations[name] for name in sorted(activations))], axis=1)
    joined = low @ weight[:width] + pair_products(vectors) @ weight[width:] + bias
    logits = _apply(rest, jax.nn.relu(joined), last_relu=False)[:, 0]
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()


def make_update() -> tuple[Callable[[Any], Any], Callable[..., Any]]:
    """What makes a state of parameters, and one Adagrad step of the dense part.

    The step takes state, activations by feature, dense features and labels, and gives state,
    gradients of the activations and the loss.
    """
    optimizer = optax.adagrad(RATE, initial_accumulator_value=ACCUMULATOR)

    def start(parameters: Any) -> Any:
        parameters = jax.tree.map(jnp.asarray, parameters)
        return parameters, optimizer.init(parameters)

    def update(
        state: Any, activations: Any, dense: jax.Array, labels: jax.Array
    ) -> tuple[Any, Any, jax.Array]:
        parameters, memory = state
        loss, (gradients, back) = jax.value_and_grad(_loss, (0, 1))(
            parameters, activations, dense, labels
        )
        changes, memory = optimizer.update(gradients, memory)
        return (optax.apply_updates(parameters, changes), memory), back, loss

    return start, update
