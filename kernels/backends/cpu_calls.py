"""Calls of the C++ kernels for CPUs: one function for each handler of ``kernels/csrc/cpu``.

A handler gets the buffers of a stack and its layout. Tables and slot variables are changed in
place: XLA is told that results have the memory of their arguments, and copies an argument only if
it is needed afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.backends.interface import StackInput, StackLayout
from kernels.variables import EmbeddingVariables, like_slots

__all__ = [
    "combine_answers",
    "look_up",
    "merge_rows",
    "native_module",
    "read_rows",
    "request_rows",
    "row_gradients",
    "update_from_batch",
    "update_from_rows",
]


@functools.cache
def native_module() -> ModuleType:
    """The C++ module, its handlers known to XLA.

    Raises:
        ImportError: If it was not built.
    """
    from kernels import _cpu_kernels  # pyright: ignore[reportAttributeAccessIssue]

    for name, handler in _cpu_kernels.handlers().items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
    return _cpu_kernels


def look_up(layout: StackLayout, batch: StackInput, table: jax.Array) -> jax.Array:
    """Activations ``[samples, width]``, on a device that has all rows of the table."""
    out = _floats(_samples(layout), table.shape[1])
    return _on_batch("emberay_lookup", out, layout, batch, [table], table.shape[0])


def request_rows(
    layout: StackLayout, batch: StackInput, capacity: int, device_rows: int
) -> jax.Array:
    """The different rows asked of every device, ascending: ``[devices, capacity]`` int32.

    Unused places, at the end of a block, hold `NO_ROW`.
    """
    out = jax.ShapeDtypeStruct((layout.devices, capacity), jnp.int32)
    return _on_batch("emberay_requests", out, layout, batch, [], device_rows)


def read_rows(rows: jax.Array, table: jax.Array) -> jax.Array:
    """Rows of a table, ``[n]`` → ``[n, width]``; 0 for those it has not."""
    out = _floats(rows.shape[0], table.shape[1])
    return _call("emberay_read_rows", out)(rows, table)


def combine_answers(
    layout: StackLayout, batch: StackInput, answers: jax.Array, device_rows: int
) -> jax.Array:
    """Activations ``[samples, width]`` from what `request_rows` asked for, ``[D, C, width]``."""
    out = _floats(_samples(layout), answers.shape[2])
    return _on_batch("emberay_combine", out, layout, batch, [answers], device_rows)


def row_gradients(
    layout: StackLayout, batch: StackInput, gradients: jax.Array, capacity: int, device_rows: int
) -> tuple[jax.Array, jax.Array]:
    """What `request_rows` returns, and the summed gradient of each row, ``[D, C, width]``."""
    out = (
        jax.ShapeDtypeStruct((layout.devices, capacity), jnp.int32),
        _floats(layout.devices, capacity, gradients.shape[1]),
    )
    return _on_batch("emberay_row_gradients", out, layout, batch, [gradients], device_rows)


def merge_rows(
    rows: jax.Array, gradients: jax.Array, room: int, device_rows: int
) -> tuple[jax.Array, jax.Array]:
    """Each of the rows once, ascending, and the sum of its gradients; `NO_ROW` and 0 at the end."""
    out = (jax.ShapeDtypeStruct((room,), jnp.int32), _floats(room, gradients.shape[1]))
    return _call("emberay_merge_rows", out)(rows, gradients, device_rows=np.int64(device_rows))


def update_from_batch(
    layout: StackLayout,
    batch: StackInput,
    gradients: jax.Array,
    numbers: jax.Array,
    variables: EmbeddingVariables,
    optimizer: int,
) -> EmbeddingVariables:
    """One optimizer step for the rows of the batch, on a device that has all rows.

    Args:
        layout: The stack.
        batch: Its buffers.
        gradients: ``[samples, width]``, of the activations.
        numbers: Hyperparameters, lowest and highest value of an updated entry.
        variables: Table and slots.
        optimizer: Its number in C++.
    """
    given = [*batch, gradients, numbers]
    attributes = _layout_attributes(layout, variables.table.shape[0])
    return _update("emberay_update", given, layout, variables, optimizer, attributes)


def update_from_rows(
    layout: StackLayout,
    rows: jax.Array,
    gradients: jax.Array,
    numbers: jax.Array,
    variables: EmbeddingVariables,
    optimizer: int,
) -> EmbeddingVariables:
    """`update_from_batch`, from gradients ``[n, width]`` of rows ``[n]``, which may repeat."""
    given = [rows, gradients, numbers]
    return _update("emberay_update_rows", given, layout, variables, optimizer, {})


def _update(
    name: str,
    given: Sequence[jax.Array],
    layout: StackLayout,
    variables: EmbeddingVariables,
    optimizer: int,
    attributes: dict[str, Any],
) -> EmbeddingVariables:
    arrays = [variables.table, *variables.slot]
    stack = layout.stack
    call = _call(
        name,
        [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays],
        input_output_aliases={len(given) + i: i for i in range(len(arrays))},
    )
    table, *slots = call(
        *given,
        *arrays,
        optimizer=np.int64(optimizer),
        embedding_dim=np.int64(stack.unpadded_embedding_dim or stack.stack_embedding_dim),
        **attributes,
    )
    return EmbeddingVariables(table, like_slots(variables.slot, slots))


def _on_batch(
    name: str,
    out: Any,
    layout: StackLayout,
    batch: StackInput,
    more: Sequence[jax.Array],
    device_rows: int,
) -> Any:
    return _call(name, out)(*batch, *more, **_layout_attributes(layout, device_rows))


def _layout_attributes(layout: StackLayout, device_rows: int) -> dict[str, Any]:
    return {
        "sparsecores": np.int64(layout.sparsecores),
        "per_device": np.int64(layout.sparsecores_per_device),
        "samples_per_core": np.int64(layout.samples_per_sparsecore),
        "rows_per_core": np.int64(device_rows // layout.sparsecores_per_device),
        "minibatches": np.bool_(layout.enable_minibatching),
    }


def _call(name: str, out: Any, **options: Any) -> Any:
    native_module()
    return jax.ffi.ffi_call(name, out, vmap_method="sequential", **options)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _samples(layout: StackLayout) -> int:
    return layout.samples_per_sparsecore * layout.sparsecores_per_device
