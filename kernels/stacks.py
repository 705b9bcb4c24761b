"""What lookup and update share: the buffers by stack, and the devices to exchange with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax

from kernels.backends import StackInput
from kernels.errors import SpecError
from kernels.preprocessing.format import (
    PreprocessedInput,
    SparseDenseMatmulInput,
    check_sharding_strategy,
)
from kernels.specs import StackedTableSpec

__all__ = ["exchange_axes", "mesh_size", "same_stacks", "stack_inputs"]


def stack_inputs(
    preprocessed_inputs: PreprocessedInput | SparseDenseMatmulInput,
    stacks: Mapping[str, StackedTableSpec],
    sharding_strategy: str,
    enable_minibatching: bool,
) -> dict[str, StackInput]:
    """The buffers by stack, checked against the stacks of the specs.

    Raises:
        SpecError: If they are of different stacks, or an option is not available.
    """
    check_sharding_strategy(sharding_strategy)
    if enable_minibatching:
        raise SpecError(
            "enable_minibatching=True: minibatching is not available in this backend; pass False "
            "and raise the limits"
        )
    buffers: Any = (
        preprocessed_inputs
        if isinstance(preprocessed_inputs, SparseDenseMatmulInput)
        else preprocessed_inputs.sparse_dense_matmul_input
    )
    same_stacks("preprocessed_inputs", buffers.lhs_row_pointers, stacks)
    return {
        name: StackInput(*(by_stack[name].reshape(-1) for by_stack in buffers)) for name in stacks
    }


def exchange_axes(devices: int | None) -> tuple[str, ...]:
    """The mesh axes to exchange over: those that the surrounding `jax.shard_map` made manual.

    Raises:
        SpecError: If they do not have the number of devices expected.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name in mesh.axis_names if name in mesh.manual_axes)
    count = math.prod(mesh.shape[name] for name in axes)
    if devices is not None and devices != count:
        found = f"shard_map here has {count} devices" if axes else "there is no shard_map here"
        raise SpecError(
            f"global_device_count is {devices}, but {found}; call this inside jax.shard_map over "
            "the whole mesh, and pass mesh.size"
        )
    return axes if count > 1 else ()


def mesh_size() -> int:
    """Devices of the surrounding `jax.shard_map`; 1 outside of one."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in mesh.manual_axes)


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
