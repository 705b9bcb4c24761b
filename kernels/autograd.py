"""Lookups that `jax.grad` can be taken through, in three ways.

    function                 the gradient of ...           is ...
    `differentiable_lookup`  the tables                    their gradient, as large as the tables
    `probed_lookup`          probes, zeros by table        their gradient, only the batch's rows
    `updating_lookup`        the tables and their slots    the variables after an optimizer step

The first is for small tables, and for optimizers that want whole gradients; the second gives the
same numbers at the cost of a batch. The third is how jax-tpu-embedding trains through `jax.grad`:
what comes back as "gradient" is to replace the variables, not to be added to them. It changes
tables in place, as `tpu_sparse_dense_matmul_grad` does.

All are called like `tpu_sparse_dense_matmul`, inside `jax.shard_map`; differentiate inside or
outside of it. Batches are constants: there is no gradient of gains.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp

from kernels.lookup import tpu_sparse_dense_matmul
from kernels.planning.stacking import get_table_specs
from kernels.preprocessing.format import PreprocessedInput
from kernels.specs import FeatureSpec, Nested, TableSpec
from kernels.stacks import as_variables
from kernels.table_gradients import TableGradients, rows_on_device
from kernels.update import tpu_sparse_dense_matmul_grad
from kernels.utils import check_num_sparsecores
from kernels.variables import EmbeddingVariables

__all__ = [
    "LookupOptions",
    "UpdateOptions",
    "differentiable_lookup",
    "gradient_probes",
    "lookup_whose_gradient_updates",
    "probed_lookup",
    "touched_rows",
    "updating_lookup",
]


class LookupOptions(TypedDict, total=False):
    """Arguments of `tpu_sparse_dense_matmul` and `tpu_sparse_dense_matmul_grad` alike."""

    sharding_strategy: str
    num_sc_per_device: int | None
    enable_minibatching: bool
    platform: str | None
    axis_names: Sequence[str] | None


class UpdateOptions(LookupOptions, total=False):
    """Arguments of `tpu_sparse_dense_matmul_grad` alone."""

    label: str
    embedding_var_limits: Mapping[str, tuple[float | None, float | None]] | None
    frozen_tables: Collection[str]


def differentiable_lookup(
    preprocessed_inputs: PreprocessedInput,
    embedding_variables: Mapping[str, EmbeddingVariables],
    feature_specs: Nested[FeatureSpec],
    *,
    global_device_count: int,
    **options: Unpack[LookupOptions],
) -> Nested[jax.Array]:
    """`tpu_sparse_dense_matmul`, with the gradient of the tables.

    Args:
        preprocessed_inputs: This device's share of the buffers.
        embedding_variables: By stack, this device's rows.
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh.
        **options: See `tpu_sparse_dense_matmul`.

    Returns:
        Activations, in the structure of ``feature_specs``. Their gradient by
        ``embedding_variables`` is an array as large as the table for each table, 0 for rows that
        are not in the batch, and 0 for slot variables.

    Example:
        >>> def loss(tables):
        ...     return loss_of(differentiable_lookup(batch, tables, specs, global_device_count=1))
        >>> gradients = jax.grad(loss)(tables)
    """

    @jax.custom_vjp
    def look(batch: PreprocessedInput, variables: Any) -> Nested[jax.Array]:
        return tpu_sparse_dense_matmul(
            batch, variables, feature_specs, global_device_count=global_device_count, **options
        )

    def forward(batch: PreprocessedInput, variables: Any) -> tuple[Any, Any]:
        return look(batch, variables), (batch, variables)

    def backward(kept: tuple[Any, Any], gradients: Any) -> tuple[None, Any]:
        batch, variables = kept
        found = tpu_sparse_dense_matmul_grad(
            gradients,
            batch,
            variables,
            feature_specs,
            global_device_count=global_device_count,
            return_gradients=True,
            **options,
        )
        per_device = check_num_sparsecores(options.get("num_sc_per_device"))
        tables = get_table_specs(feature_specs)
        return None, {
            name: _dense(name, mine, tables, found, global_device_count, per_device)
            for name, mine in variables.items()
        }

    look.defvjp(forward, backward)
    return look(preprocessed_inputs, dict(embedding_variables))


def touched_rows(
    preprocessed_inputs: PreprocessedInput,
    embedding_variables: Mapping[str, EmbeddingVariables],
    feature_specs: Nested[FeatureSpec],
    *,
    global_device_count: int,
    **options: Unpack[LookupOptions],
) -> dict[str, jax.Array]:
    """The rows of every table that a batch looks up.

    Args:
        preprocessed_inputs: This device's share of the buffers.
        embedding_variables: By stack, this device's rows.
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh.
        **options: See `tpu_sparse_dense_matmul`.

    Returns:
        By table, ``[R]`` int32: those this device holds, as `TableGradients.rows`.
    """
    found = _gradients_of_nothing(
        preprocessed_inputs, embedding_variables, feature_specs, global_device_count, options
    )
    return {name: mine.rows for name, mine in found.items()}


def gradient_probes(
    preprocessed_inputs: PreprocessedInput,
    embedding_variables: Mapping[str, EmbeddingVariables],
    feature_specs: Nested[FeatureSpec],
    *,
    global_device_count: int,
    **options: Unpack[LookupOptions],
) -> dict[str, jax.Array]:
    """Zeros for `probed_lookup`: by table, ``[R, embedding_dim]`` float32.

    Args:
        preprocessed_inputs: This device's share of the buffers.
        embedding_variables: By stack, this device's rows.
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh.
        **options: See `tpu_sparse_dense_matmul`.
    """
    found = _gradients_of_nothing(
        preprocessed_inputs, embedding_variables, feature_specs, global_device_count, options
    )
    return {name: jnp.zeros_like(mine.values) for name, mine in found.items()}


def probed_lookup(
    preprocessed_inputs: PreprocessedInput,
    embedding_variables: Mapping[str, EmbeddingVariables],
    probes: Mapping[str, jax.Array],
    feature_specs: Nested[FeatureSpec],
    *,
    global_device_count: int,
    **options: Unpack[LookupOptions],
) -> Nested[jax.Array]:
    """`tpu_sparse_dense_matmul`, with the gradient of the rows of the batch.

    A probe stands for a change of the rows of `touched_rows`, in their order. Only its gradient is
    meant to be used: its values, zeros, do not change the activations.

    Args:
        preprocessed_inputs: This device's share of the buffers.
        embedding_variables: By stack, this device's rows.
        probes: What `gradient_probes` returns.
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh.
        **options: See `tpu_sparse_dense_matmul`.

    Returns:
        Activations, in the structure of ``feature_specs``. Their gradient by a probe is
        `TableGradients.values`.

    Example:
        >>> def loss(dense, probes):
        ...     looked_up = probed_lookup(batch, tables, probes, specs, global_device_count=1)
        ...     return loss_of(dense, looked_up)
        >>> dense_gradients, row_gradients = jax.grad(loss, argnums=(0, 1))(dense, probes)
        >>> rows = touched_rows(batch, tables, specs, global_device_count=1)
    """

    @jax.custom_vjp
    def look(batch: PreprocessedInput, variables: Any, probes: Any) -> Nested[jax.Array]:
        del probes
        return tpu_sparse_dense_matmul(
            batch, variables, feature_specs, global_device_count=global_device_count, **options
        )

    def forward(batch: PreprocessedInput, variables: Any, probes: Any) -> tuple[Any, Any]:
        return look(batch, variables, probes), (batch, variables)

    def backward(kept: tuple[Any, Any], gradients: Any) -> tuple[None, None, Any]:
        found = tpu_sparse_dense_matmul_grad(
            gradients,
            *kept,
            feature_specs,
            global_device_count=global_device_count,
            return_gradients=True,
            **options,
        )
        return None, None, {name: found[name].values for name in probes}

    look.defvjp(forward, backward)
    return look(preprocessed_inputs, dict(embedding_variables), dict(probes))


def updating_lookup(
    preprocessed_inputs: PreprocessedInput,
    embedding_variables: Mapping[str, EmbeddingVariables],
    feature_specs: Nested[FeatureSpec],
    *,
    global_device_count: int,
    step: jax.Array | int | None = None,
    **options: Unpack[UpdateOptions],
) -> Nested[jax.Array]:
    """`tpu_sparse_dense_matmul`, whose gradient is the variables after an optimizer step.

    Args:
        preprocessed_inputs: This device's share of the buffers.
        embedding_variables: By stack, this device's rows.
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh.
        step: For hyperparameters that are functions of the step.
        **options: See `tpu_sparse_dense_matmul_grad`.

    Returns:
        Activations, in the structure of ``feature_specs``. What `jax.grad` calls their gradient by
        ``embedding_variables`` are the new variables. Look a table up once in a loss: gradients of
        two lookups would be added up, which for updated tables means nothing.

    Example:
        >>> def loss(dense, tables):
        ...     looked_up = updating_lookup(batch, tables, specs, global_device_count=1)
        ...     return loss_of(dense, looked_up)
        >>> dense_gradients, tables = jax.grad(loss, argnums=(0, 1))(dense, tables)
    """
    looking: Any = {key: options[key] for key in LookupOptions.__annotations__ if key in options}
    shared: Any = {"feature_specs": feature_specs, "global_device_count": global_device_count}
    look = lookup_whose_gradient_updates(
        functools.partial(tpu_sparse_dense_matmul, **shared, **looking),
        functools.partial(tpu_sparse_dense_matmul_grad, **shared, **options),
    )
    return look(preprocessed_inputs, dict(embedding_variables), step)


def lookup_whose_gradient_updates(
    lookup: Callable[[Any, Any], Any], update: Callable[..., Any]
) -> Callable[[Any, Any, Any], Any]:
    """A lookup, and in the place of its gradient the variables after an optimizer step.

    Args:
        lookup: ``(batch, variables)`` → activations.
        update: ``(gradients, batch, variables, step=step)`` → new variables, in the structure and
            types of the old ones.

    Returns:
        ``(batch, variables, step)`` → activations. What `jax.grad` calls their gradient by
        ``variables`` is not a gradient at all, but what ``update`` returned.
    """

    @jax.custom_vjp
    def look(batch: Any, variables: Any, step: Any) -> Any:
        del step
        return lookup(batch, variables)

    def forward(batch: Any, variables: Any, step: Any) -> tuple[Any, Any]:
        return look(batch, variables, step), (batch, variables, step)

    def backward(kept: tuple[Any, Any, Any], gradients: Any) -> tuple[None, Any, None]:
        batch, variables, step = kept
        return None, update(gradients, batch, variables, step=step), None

    look.defvjp(forward, backward)
    return look


def _gradients_of_nothing(
    batch: PreprocessedInput,
    variables: Mapping[str, EmbeddingVariables],
    feature_specs: Nested[FeatureSpec],
    devices: int,
    options: LookupOptions,
) -> dict[str, TableGradients]:
    """Table gradients that are all 0: what XLA then needs not compute, it does not."""

    def nothing(feature: FeatureSpec) -> jax.Array:
        return jnp.zeros((feature.output_shape[0] // devices, feature.output_shape[-1]))

    return tpu_sparse_dense_matmul_grad(
        jax.tree.map(nothing, feature_specs),
        batch,
        variables,
        feature_specs,
        global_device_count=devices,
        return_gradients=True,
        **options,
    )


def _dense(
    stack_name: str,
    given: Any,
    tables: Mapping[str, TableSpec],
    gradients: Mapping[str, TableGradients],
    devices: int,
    per_device: int,
) -> Any:
    """Gradients of a stack's tables as its variables are given, 0 for slots."""
    table, slots = as_variables(stack_name, given)
    result = jnp.zeros(table.shape, jnp.float32)
    for name, spec in tables.items():
        if spec.stacked_table_spec.stack_name != stack_name:
            continue
        rows, values = gradients[name]
        where = rows_on_device(spec, rows, devices, per_device, table.shape[0])
        result = result.at[where, : spec.embedding_dim].set(values, mode="drop")
    leaves = [result.astype(table.dtype), *(jnp.zeros_like(slot) for slot in slots)]
    return jax.tree.unflatten(jax.tree.structure(given), leaves)
