"""What lookup and update share: the buffers by stack, and the devices to exchange with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kernels.backends import StackInput, StackLayout
from kernels.errors import SpecError
from kernels.preprocessing.format import (
    PreprocessedInput,
    SparseDenseMatmulInput,
    check_sharding_strategy,
    row_pointers_per_sparsecore,
)
from kernels.specs import StackedTableSpec
from kernels.variables import EmbeddingVariables

__all__ = ["as_variables", "exchange_axes", "same_stacks", "stack_inputs", "stack_layouts"]


def stack_layouts(
    stacks: Mapping[str, StackedTableSpec],
    global_device_count: int | None,
    num_sc_per_device: int,
    axis_names: Sequence[str] | None,
    enable_minibatching: bool,
) -> dict[str, StackLayout]:
    """What is known of every stack while a program is traced.

    Raises:
        SpecError: If the devices are not those of the surrounding `jax.shard_map`.
    """
    axes, devices = exchange_axes(global_device_count, axis_names)
    return {
        name: StackLayout(stack, devices, num_sc_per_device, axes, enable_minibatching)
        for name, stack in stacks.items()
    }


def stack_inputs(
    preprocessed_inputs: PreprocessedInput | SparseDenseMatmulInput,
    layouts: Mapping[str, StackLayout],
    sharding_strategy: str,
) -> dict[str, StackInput]:
    """The buffers by stack, checked against the layouts.

    Raises:
        SpecError: If they are of different stacks, or were made for another number of devices or
            SparseCores, or with minibatches where none are expected or the reverse.
    """
    check_sharding_strategy(sharding_strategy)
    if isinstance(preprocessed_inputs, SparseDenseMatmulInput):
        preprocessed_inputs = PreprocessedInput(preprocessed_inputs)
    buffers: Any = preprocessed_inputs.sparse_dense_matmul_input
    same_stacks("preprocessed_inputs", buffers.lhs_row_pointers, layouts)
    # Every device has the same number; where no shard_map cuts it, there is one for each.
    count = jnp.asarray(preprocessed_inputs.num_minibatches, jnp.int32).reshape(-1)[:1]
    inputs: dict[str, StackInput] = {}
    for name in layouts:
        pointers, ids, samples, gains = (jnp.asarray(part[name]).reshape(-1) for part in buffers)
        inputs[name] = StackInput(pointers, ids, samples, gains, count)
    for name, layout in layouts.items():
        _check_row_pointers(name, layout, inputs[name].row_pointers.shape[0])
    return inputs


def _check_row_pointers(name: str, layout: StackLayout, found: int) -> None:
    plain = layout.sparsecores_per_device * row_pointers_per_sparsecore(layout.sparsecores)
    if found % plain == 0 and (found > plain) == layout.enable_minibatching:
        return
    if found % plain == 0:
        given = layout.enable_minibatching
        raise SpecError(
            f"stack '{name}': the batch was encoded with enable_minibatching={not given}, and is "
            f"looked up with enable_minibatching={given}; pass the same to both"
        )
    raise SpecError(
        f"stack '{name}': the batch has {found} row pointers on a device, but {layout.devices} "
        f"devices of {layout.sparsecores_per_device} SparseCores need {plain}; encode it with the "
        "same num_sc_per_device and global_device_count"
    )


def as_variables(name: str, value: Any) -> EmbeddingVariables:
    """A stack's table and slot variables, given as any pytree of them in this order.

    Raises:
        SpecError: If it is empty.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(value)]
    if not leaves:
        raise SpecError(f"embedding_variables of stack '{name}' hold no array; pass its table")
    return EmbeddingVariables(leaves[0], tuple(leaves[1:]))


def exchange_axes(
    devices: int | None, axis_names: Sequence[str] | None
) -> tuple[tuple[str, ...], int]:
    """The mesh axes to exchange over (none for a single device), and their devices.

    Args:
        devices: The number expected; None expects none in particular.
        axis_names: The axes; None takes all that the surrounding `jax.shard_map` made manual.

    Raises:
        SpecError: If an axis is not manual here, or they do not have the number of devices
            expected.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name in mesh.axis_names if name in mesh.manual_axes)
    if axis_names is not None:
        if missing := set(axis_names) - set(axes):
            raise SpecError(
                f"axis_names names {sorted(missing)}, but the surrounding jax.shard_map has the "
                f"axes {list(axes)}; name axes that shard the tables"
            )
        axes = tuple(axis_names)
    count = math.prod(mesh.shape[name] for name in axes)
    if devices is not None and devices != count:
        found = f"shard_map here has {count} devices" if axes else "there is no shard_map here"
        raise SpecError(
            f"global_device_count is {devices}, but {found}; call this inside jax.shard_map over "
            "the whole mesh, and pass mesh.size (with other axes in the mesh, pass axis_names, the "
            "axes that shard the tables)"
        )
    return (axes if count > 1 else ()), count


def same_stacks(what: str, given: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Refuse a mapping whose stacks are not those of the specs.

    Raises:
        SpecError: If they differ.
    """
    if given.keys() != expected.keys():
        raise SpecError(
            f"{what} hold stacks {sorted(given)}, but the specs have {sorted(expected)}; make all "
            "of them from the same plan"
        )
