"""An optax optimizer for models with the linen layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from kernels.layers.linen import EMBEDDING_PARAM_NAME

__all__ = ["apply_updates_for_sc_model", "create_optimizer_for_sc_model"]


def create_optimizer_for_sc_model(
    params: Any, tc_optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """An optimizer that leaves the embedding variables to the layer.

    What `jax.grad` returns for them is their new value already; it is handed on as it is. The
    gradients of all other parameters go to ``tc_optimizer``.

    Args:
        params: The model's parameters.
        tc_optimizer: For all but the embedding variables.

    Example:
        >>> tx = create_optimizer_for_sc_model(params, optax.adam(1e-3))
        >>> state = tx.init(params)
        >>> updates, state = tx.update(gradients, state, params)
        >>> params = apply_updates_for_sc_model(params, updates)
    """
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "tables" if _is_embedding(path) else "dense", params
    )
    hand_on = optax.GradientTransformation(
        init=lambda params: optax.EmptyState(),
        update=lambda updates, state, params=None: (updates, state),
    )
    return optax.multi_transform({"dense": tc_optimizer, "tables": hand_on}, labels)


def apply_updates_for_sc_model(params: Any, updates: Any) -> Any:
    """The model's next parameters: embedding variables replaced, updates added to all others.

    Args:
        params: The model's parameters.
        updates: What the optimizer of `create_optimizer_for_sc_model` returned for them.
    """

    def next_value(path: tuple[Any, ...], parameter: Any, update: Any) -> Any:
        if _is_embedding(path):
            return update
        return jnp.asarray(parameter + update).astype(jnp.asarray(update).dtype)

    return jax.tree_util.tree_map_with_path(next_value, params, updates)


def _is_embedding(path: tuple[Any, ...]) -> bool:
    return any(getattr(level, "key", None) == EMBEDDING_PARAM_NAME for level in path)
