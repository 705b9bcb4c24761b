"""Features in and out of a stack as the custom calls of SparseCores.

The call targets, layouts and operands are those jax-tpu-embedding 0.2.0 lowers to. A device's
samples of a stack lie SparseCore by SparseCore, those of a SparseCore feature by feature; the calls
know the number of SparseCores themselves. On platforms other than TPU the plain function that is
passed along runs instead: it has the same meaning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.experimental.layout import Layout
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.interpreters import mlir

__all__ = ["stack_gradients_call", "unstack_activations_call"]


def unstack_activations_call(
    stacked: jax.Array,
    shapes: Sequence[tuple[int, int]],
    plain: Callable[[jax.Array], Sequence[jax.Array]],
) -> list[jax.Array]:
    """A device's activations of a stack, cut into features.

    Args:
        stacked: ``[samples of all features, width]`` float32.
        shapes: ``(samples, columns)`` of every feature, in the order they lie in the stack.
        plain: The same in plain JAX.
    """
    return _unstack.bind(stacked, shapes=tuple(shapes), plain=plain)


def stack_gradients_call(
    gradients: Sequence[jax.Array],
    shape: tuple[int, int],
    plain: Callable[..., Sequence[jax.Array]],
) -> jax.Array:
    """A device's gradients of features, put together to a stack: the reverse.

    Args:
        gradients: ``[samples, width]`` float32 of every feature, in the order they lie in the
            stack.
        shape: ``(samples of all features, width)``.
        plain: The same in plain JAX: takes the gradients one by one, returns one array.
    """
    (stacked,) = _stack.bind(*gradients, shapes=(shape,), plain=plain)
    return stacked


def _run_plain(*arrays: Any, shapes: Any, plain: Callable[..., Sequence[jax.Array]]) -> Any:
    del shapes
    return plain(*arrays)


def _result_shapes(*arrays: ShapedArray, shapes: Any, plain: Any) -> list[ShapedArray]:
    del arrays, plain
    return [ShapedArray(shape, jnp.float32) for shape in shapes]


def _lower(
    ctx: mlir.LoweringRuleContext,
    *operands: ir.Value,
    shapes: Any,
    plain: Any,
    target: str,
    operand_order: tuple[int, int],
    result_order: tuple[int, int],
) -> Sequence[Any]:
    del plain
    rule = jax.ffi.ffi_lowering(
        target,
        operand_layouts=[Layout(major_to_minor=operand_order)] * len(operands),
        result_layouts=[Layout(major_to_minor=result_order)] * len(shapes),
        result_types=[mlir.aval_to_ir_type(ctx.module_context, aval) for aval in ctx.avals_out],
        api_version=1,
    )
    return rule(ctx, *operands)


def _primitive(name: str, target: str, **orders: tuple[int, int]) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(_run_plain)
    primitive.def_abstract_eval(_result_shapes)
    mlir.register_lowering(primitive, mlir.lower_fun(_run_plain, multiple_results=True))
    on_tpu = functools.partial(_lower, target=target, **orders)
    mlir.register_lowering(primitive, on_tpu, platform="tpu")
    return primitive


_unstack = _primitive(
    "sparsecore_unstack_activations",
    "SparseActivationsUnstackInterleaved",
    operand_order=(0, 1),
    result_order=(1, 0),
)
_stack = _primitive(
    "sparsecore_stack_gradients",
    "SparseGradientsStackInterleaved",
    operand_order=(1, 0),
    result_order=(0, 1),
)
