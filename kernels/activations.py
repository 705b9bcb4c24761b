"""Between stacks and features: activations come apart, gradients go together.

A device's samples of a stack lie SparseCore by SparseCore, and within a SparseCore feature by
feature (see `kernels.preprocessing.format`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kernels.backends.tpu_interleave import stack_gradients_call, unstack_activations_call
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
        activations: By stack, ``[samples of the device, width]``, or ``[samples of the device]``
            where the width is 1.
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device.
        use_activation_unstack_primitive: On TPUs, let SparseCores do it, in one custom call a
            stack. The result is the same.

    Returns:
        In the structure of ``feature_specs``, ``[samples of the device, output columns]``; without
        columns where the stack's activations have none.

    Raises:
        SpecError: If a feature has more columns than its table, or samples cannot be divided.
    """
    cores = global_device_count * num_sc_per_device
    for feature in jax.tree.leaves(feature_specs):
        _check_columns(feature)

    def cut(stacked: jax.Array, feature: FeatureSpec, columns: int) -> jax.Array:
        _check_divisible(feature.name, stacked.shape, num_sc_per_device)
        per_core = stacked.reshape(num_sc_per_device, -1, *stacked.shape[1:])
        first = feature.id_transformation.row_offset // cores
        mine = per_core[:, first : first + sample_count(feature) // cores]
        return mine.reshape(-1) if stacked.ndim == 1 else mine[..., :columns].reshape(-1, columns)

    def of_feature(feature: FeatureSpec) -> jax.Array:
        stacked = activations[feature.table_spec.stacked_table_spec.stack_name]
        return cut(stacked, feature, int(feature.output_shape[-1]))

    if not use_activation_unstack_primitive:
        return jax.tree.map(of_feature, feature_specs)

    found: dict[str, jax.Array] = {}
    for name, members in _by_stack(feature_specs).items():
        dims = [feature.table_spec.embedding_dim for feature in members]
        samples = [sample_count(feature) // global_device_count for feature in members]
        parts = unstack_activations_call(
            activations[name],
            list(zip(samples, dims, strict=True)),
            lambda stacked, members=members, dims=dims: [
                cut(stacked, feature, dim) for feature, dim in zip(members, dims, strict=True)
            ],
        )
        found |= {feature.name: part for feature, part in zip(members, parts, strict=True)}
    return jax.tree.map(lambda f: found[f.name][:, : int(f.output_shape[-1])], feature_specs)


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
            columns]`` or any shape that holds them in that order; with up to as many columns as
            the table.
        feature_specs: Stacked features.
        num_sc_per_device: SparseCores of a device.
        global_device_count: Not needed here.
        use_gradient_stacking_primitive: On TPUs, let SparseCores do it, in one custom call a stack.
            The result is the same.

    Returns:
        By stack, ``[samples of the device, width]``; missing columns are 0.

    Raises:
        SpecError: If structures differ, or samples cannot be divided.
    """
    features = jax.tree_util.tree_leaves_with_path(feature_specs)
    gradients = jax.tree_util.tree_leaves_with_path(activation_gradients)
    if [path for path, _ in features] != [path for path, _ in gradients]:
        raise SpecError(
            "Pytree structures of feature_specs and activation_gradients do not match: "
            f"{jax.tree.structure(feature_specs)} and {jax.tree.structure(activation_gradients)}; "
            "pass a gradient for every feature, in the structure of feature_specs"
        )
    given = {
        feature.name: array for (_, feature), (_, array) in zip(features, gradients, strict=True)
    }

    def join(*rows: jax.Array) -> list[jax.Array]:
        blocks = [array.reshape(num_sc_per_device, -1, array.shape[-1]) for array in rows]
        return [jnp.concatenate(blocks, axis=1).reshape(-1, rows[0].shape[-1])]

    result: dict[str, jax.Array] = {}
    for name, members in _by_stack(feature_specs).items():
        rows = [_padded(feature, given[feature.name], num_sc_per_device) for feature in members]
        if use_gradient_stacking_primitive:
            samples = sum(array.shape[0] for array in rows)
            result[name] = stack_gradients_call(rows, (samples, rows[0].shape[-1]), join)
        else:
            (result[name],) = join(*rows)
    return result


def _by_stack(feature_specs: Nested[FeatureSpec]) -> dict[str, list[FeatureSpec]]:
    """The features of every stack, in the order their samples lie in it."""
    members: dict[str, list[FeatureSpec]] = defaultdict(list)
    for feature in jax.tree.leaves(feature_specs):
        members[feature.table_spec.stacked_table_spec.stack_name].append(feature)
    return {
        name: sorted(features, key=lambda feature: feature.id_transformation.row_offset)
        for name, features in members.items()
    }


def _padded(feature: FeatureSpec, gradient: jax.Array, num_sc_per_device: int) -> jax.Array:
    """``[samples, width]``."""
    dim = feature.table_spec.embedding_dim
    columns = gradient.shape[-1] if gradient.ndim > 1 and gradient.shape[-1] <= dim else dim
    rows = gradient.reshape(-1, columns)
    _check_divisible(feature.name, rows.shape, num_sc_per_device)
    missing = feature.table_spec.setting_in_stack.padded_embedding_dim - columns
    return jnp.pad(rows, ((0, 0), (0, missing))) if missing else rows


def _check_columns(feature: FeatureSpec) -> None:
    if int(feature.output_shape[-1]) > feature.table_spec.embedding_dim:
        raise SpecError(
            f"Feature {feature.name} has output shape {tuple(feature.output_shape)}: the "
            "embedding dim in output shape cannot be more than the (original, unpadded) "
            f"embedding dim of table '{feature.table_spec.name}'; make it at most "
            f"{feature.table_spec.embedding_dim}"
        )


def _check_divisible(name: str, shape: tuple[int, ...], num_sc_per_device: int) -> None:
    if shape[0] % num_sc_per_device:
        raise SpecError(
            "The input batch size must be divisible by the number of feature slices per device: "
            f"feature '{name}' has {shape[0]} samples on a device of {num_sc_per_device} "
            "SparseCores; make the batch size a multiple of all SparseCores"
        )
