"""Optimizer functions as StableHLO text: how SparseCores take an update that is not built in.

A function of one row, ``f(gradient, table, *slots, *hyperparameters)`` with every argument
``[1, width]`` float32 (hyperparameters in every column), that returns the row, or the row and its
slots. The format is StableHLO's text form (https://openxla.org/stablehlo/spec).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import func
from jax.interpreters import mlir

from kernels.errors import SpecError

__all__ = [
    "apply_clipping",
    "call_stablehlo",
    "lower_to_stablehlo",
    "stablehlo_text",
    "wrap_stablehlo_with_limits",
]


def apply_clipping(
    val: jax.Array, min_value: float | None = None, max_value: float | None = None
) -> jax.Array:
    """``val`` within bounds; None is no bound."""
    if min_value is not None and max_value is not None:
        return jnp.clip(val, min_value, max_value)
    if min_value is not None:
        return jnp.maximum(val, min_value)
    return val if max_value is None else jnp.minimum(val, max_value)


def lower_to_stablehlo(
    custom_computation_fn: Callable[..., Any],
    embedding_dim: int = 1,
    num_slot_variables: int = 0,
    num_hyperparameters: int = 1,
    min_value: float | None = None,
    max_value: float | None = None,
) -> str:
    """An optimizer function of one row, as the text of a StableHLO module.

    Args:
        custom_computation_fn: ``f(gradient, table, *slots, *hyperparameters)``, see above.
        embedding_dim: Columns of a row.
        num_slot_variables: Number of slots.
        num_hyperparameters: Number of hyperparameters, the learning rate included.
        min_value: Lowest value of an updated entry, None for no bound.
        max_value: Highest value of an updated entry.

    Example:
        >>> text = lower_to_stablehlo(lambda g, w, rate: w - rate * g, embedding_dim=8)
    """

    def within(*arguments: jax.Array) -> Any:
        out = custom_computation_fn(*arguments)
        if isinstance(out, list | tuple):
            return (apply_clipping(out[0], min_value, max_value), *out[1:])
        return apply_clipping(out, min_value, max_value)

    rows = _rows(2 + num_slot_variables + num_hyperparameters, embedding_dim)
    return jax.jit(within).lower(*rows).as_text(dialect="stablehlo")


def wrap_stablehlo_with_limits(
    stablehlo: str | bytes,
    embedding_dim: int,
    num_slot_variables: int,
    num_hyperparameters: int,
    min_value: float | None = None,
    max_value: float | None = None,
) -> str:
    """A StableHLO module whose updated entries are clipped; the text itself without bounds.

    Arguments as in `lower_to_stablehlo`.
    """
    text = stablehlo_text(stablehlo)
    if min_value is None and max_value is None:
        return text

    def within(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        table, *slots = call_stablehlo(text, arguments, results=1 + num_slot_variables)
        return (apply_clipping(table, min_value, max_value), *slots)

    rows = _rows(2 + num_slot_variables + num_hyperparameters, embedding_dim)
    return jax.jit(within).lower(*rows).as_text(dialect="stablehlo")


def stablehlo_text(stablehlo: Any) -> str:
    """Text of a module given as text, UTF-8 bytes or an MLIR module.

    Raises:
        SpecError: If it is something else.
    """
    if isinstance(stablehlo, bytes):
        return stablehlo.decode("utf-8")
    if isinstance(stablehlo, str | ir.Module):
        return str(stablehlo)
    raise SpecError(
        f"stablehlo must be a string, bytes, or ir.Module, got {type(stablehlo)}; pass what "
        "lower_to_stablehlo returns"
    )


def call_stablehlo(text: str, rows: Sequence[jax.Array], *, results: int) -> list[jax.Array]:
    """Call a module's main function inside a JAX program.

    Args:
        text: The module.
        rows: Its arguments, all of one shape.
        results: How many arrays of that shape it returns.
    """
    return _call.bind(*rows, text=text, results=results)


_call = Primitive("emberay_call_stablehlo")
_call.multiple_results = True


@_call.def_abstract_eval
def _shapes(*rows: ShapedArray, text: str, results: int) -> list[ShapedArray]:
    del text
    return [ShapedArray(rows[0].shape, rows[0].dtype)] * results


def _lower(
    ctx: mlir.LoweringRuleContext, *rows: ir.Value, text: str, results: int
) -> Sequence[ir.Value]:
    del results
    here = ctx.module_context
    try:
        module = ir.Module.parse(text, context=here.context)
    except ir.MLIRError as error:
        raise SpecError(
            f"the optimizer's StableHLO cannot be read ({error}); pass what lower_to_stablehlo "
            "returns"
        ) from error
    name = mlir.merge_mlir_modules(
        here.module, "custom_optimizer", module, dst_symtab=here.symbol_table
    )
    types = [mlir.aval_to_ir_type(here, shape) for shape in ctx.avals_out]
    return list(func.CallOp(types, ir.FlatSymbolRefAttr.get(name), list(rows)).results)


mlir.register_lowering(_call, _lower)


def _rows(count: int, columns: int) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((1, columns), jnp.float32)] * count
