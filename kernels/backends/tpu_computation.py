"""An optimizer's row function as a computation that a SparseCore's update calls.

The custom call of an update names a function of one row, ``(gradient, table, *slots,
*hyperparameters) → tuple(table, *slots)``, every argument ``[1, width]``. It is made from the one
pure function of the optimizer (`OptimizerSpec.update`), which every other backend calls too.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.extend.core import (
    ClosedJaxpr,  # pyright: ignore[reportPrivateImportUsage]
    jaxpr_as_fun,
)
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import func
from jax.extend.mlir.dialects import stablehlo as hlo
from jax.interpreters import mlir

from kernels.optimizers import CustomOptimizerSpec, OptimizerSpec
from kernels.optimizers.stablehlo import apply_clipping, call_stablehlo, stablehlo_text

__all__ = ["emit_computation", "trace_row_update"]


def trace_row_update(
    optimizer: OptimizerSpec,
    variables: Sequence[jax.Array],
    hyperparameters: Sequence[jax.Array],
    bounds: tuple[float | None, float | None],
    embedding_dim: int,
) -> ClosedJaxpr:
    """The update of one row, traced.

    Args:
        optimizer: The optimizer.
        variables: The table and its slot variables; only shapes and types are used.
        hyperparameters: Scalars; only types are used.
        bounds: Lowest and highest value of an updated entry, None for no bound.
        embedding_dim: Columns in use.

    Returns:
        A function of ``2 + slots + hyperparameters`` rows that returns ``1 + slots`` rows.
    """
    slots = len(variables) - 1
    custom = optimizer.stablehlo if isinstance(optimizer, CustomOptimizerSpec) else None

    def update(gradient: jax.Array, *rows: jax.Array) -> tuple[jax.Array, ...]:
        old, numbers = rows[: 1 + slots], rows[1 + slots :]
        if custom is not None:
            text = stablehlo_text(custom)
            table, *new = call_stablehlo(text, (gradient, *rows), results=1 + slots)
        else:
            table, new = optimizer.update(
                gradient, old[0], old[1:], numbers, embedding_dim=embedding_dim
            )
        return (apply_clipping(table, *bounds), *new)

    shape = (1, *variables[0].shape[1:])
    types = [variables[0].dtype, *(array.dtype for array in (*variables, *hyperparameters))]
    return jax.make_jaxpr(update)(*(jax.ShapeDtypeStruct(shape, dtype) for dtype in types))


def emit_computation(ctx: mlir.LoweringRuleContext, name: str, update: ClosedJaxpr) -> str:
    """Add a traced row function to the module that is being lowered.

    Returns:
        The symbol it got: ``name``, or if that is taken, a name like it.
    """
    here = ctx.module_context
    arguments = [mlir.aval_to_ir_type(here, aval) for aval in update.in_avals]
    result = ir.TupleType.get_tuple([mlir.aval_to_ir_type(here, aval) for aval in update.out_avals])
    function = func.FuncOp(name, (arguments, [result]), ip=here.ip, visibility="private")
    here.symbol_table.insert(function)
    inner = ctx.replace(primitive=None, avals_in=update.in_avals, avals_out=update.out_avals)
    with ir.InsertionPoint(function.add_entry_block()):
        rule = mlir.lower_fun(jaxpr_as_fun(update), multiple_results=True)
        rows = mlir.ir_tree_registry.flatten(rule(inner, *function.arguments))[0]
        func.ReturnOp([hlo.tuple(rows)])
    return ir.StringAttr(function.attributes["sym_name"]).value
