"""Between stacks and features: activations come apart, gradients go together.

A device's samples of a stack lie SparseCore by SparseCore, and within a SparseCore feature by
feature (see `kernels.preprocessing.format`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kernels.errors import SpecError
from kernels.planning.stacking import sample_count
from kernels.specs import FeatureSpec, Nested

__all__ = ["stack_embedding_gradients", "unstack_embedding_activations"]


def unstack_embedding_activations(
    activations: Mapping[str, jax.Array],
    feature_specs: Nested[FeatureSpec],
    global_device_count: int,
    num_sc_per_device: int,
    use_activation_unstack_primitive: bool = False,
) -> Nested[jax.Array]:
    """One device's activations, feature by feature.

    Args:
        activations: By stack, ``[samples of the device, width]``.
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device.
        use_activation_unstack_primitive: A choice for TPUs; the result is the same.

    Returns:
        In the structure of ``feature_specs``, ``[samples of the device, output columns]``.
    """
    del use_activation_unstack_primitive
    sparsecores = global_device_count * num_sc_per_device

    def of_feature(feature: FeatureSpec) -> jax.Array:
        columns = int(feature.output_shape[-1])
        if columns > feature.table_spec.embedding_dim:
            raise SpecError(
                f"feature '{feature.name}': its output has {columns} columns, but table "
                f"'{feature.table_spec.name}' has {feature.table_spec.embedding_dim}; make it at "
                f"most {feature.table_spec.embedding_dim}"
            )
        stacked = activations[feature.table_spec.stacked_table_spec.stack_name]
        _check_divisible(feature.name, stacked.shape, num_sc_per_device)
        per_core = stacked.reshape(num_sc_per_device, -1, *stacked.shape[1:])
        first = feature.id_transformation.row_offset // sparsecores
        mine = per_core[:, first : first + sample_count(feature) // sparsecores, :columns]
        return mine.reshape(-1, columns)

    return jax.tree.map(of_feature, feature_specs)


def stack_embedding_gradients(
    activation_gradients: Nested[jax.Array],
    feature_specs: Nested[FeatureSpec],
    num_sc_per_device: int,
    global_device_count: int | None = None,
    use_gradient_stacking_primitive: bool = False,
) -> dict[str, jax.Array]:
    """One device's gradients, stack by stack: the inverse of `unstack_embedding_activations`.

    Args:
        activation_gradients: In the structure of ``feature_specs``, ``[samples of the device,
            columns]``.
        feature_specs: Stacked features.
        num_sc_per_device: SparseCores of a device.
        global_device_count: Not needed here.
        use_gradient_stacking_primitive: A choice for TPUs; the result is the same.

    Returns:
        By stack, ``[samples of the device, width]``; missing columns are 0.
    """
    del global_device_count, use_gradient_stacking_primitive
    features, structure = jax.tree.flatten(feature_specs)
    try:
        gradients = structure.flatten_up_to(activation_gradients)
    except (ValueError, TypeError, KeyError) as error:
        raise SpecError(
            f"activation_gradients must have the structure of feature_specs ({structure}): {error}"
        ) from error
    parts: dict[str, list[tuple[FeatureSpec, jax.Array]]] = defaultdict(list)
    for feature, gradient in zip(features, gradients, strict=True):
        parts[feature.table_spec.stacked_table_spec.stack_name].append((feature, gradient))

    result: dict[str, jax.Array] = {}
    for name, members in parts.items():
        members.sort(key=lambda member: member[0].id_transformation.row_offset)
        blocks = [_block(feature, gradient, num_sc_per_device) for feature, gradient in members]
        stacked = jnp.concatenate(blocks, axis=1)
        result[name] = stacked.reshape(-1, stacked.shape[-1])
    return result


def _block(feature: FeatureSpec, gradient: jax.Array, num_sc_per_device: int) -> jax.Array:
    """``[SparseCores, samples of one, width]``."""
    columns = gradient.shape[-1]
    rows = gradient.reshape(-1, columns)
    _check_divisible(feature.name, rows.shape, num_sc_per_device)
    missing = feature.table_spec.setting_in_stack.padded_embedding_dim - columns
    if missing:
        rows = jnp.pad(rows, ((0, 0), (0, missing)))
    return rows.reshape(num_sc_per_device, -1, rows.shape[-1])


def _check_divisible(name: str, shape: tuple[int, ...], num_sc_per_device: int) -> None:
    if shape[0] % num_sc_per_device:
        raise SpecError(
            f"feature '{name}': {shape[0]} samples on a device cannot be divided over its "
            f"{num_sc_per_device} SparseCores; make the batch size a multiple of all SparseCores"
        )
