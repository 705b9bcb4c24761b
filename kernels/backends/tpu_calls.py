"""Lookup and update as the custom calls that XLA compiles for SparseCores.

Call targets, the order of operands and the backend configuration are those that jax-tpu-embedding
0.2.0 lowers to; XLA's TPU compiler defines them. Operands, B being the batch's buffers (row
pointers, row ids, sample ids, gains) and T the table and its slot variables:

    lookup                    B, table, zeros                                → activations
    lookup, minibatches       B, minibatches, table, zeros                   → activations
    update                    B, gradients, T, hyperparameters               → tuple(T)
    update, minibatches       B, minibatches, T, gradients, hyperparameters  → tuple(T)

An update also names a computation, the optimizer's update of one row.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import (
    ClosedJaxpr,  # pyright: ignore[reportPrivateImportUsage]
    Primitive,
)
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo as hlo
from jax.interpreters import mlir

from kernels.backends.interface import StackInput
from kernels.backends.tpu_computation import emit_computation

__all__ = ["CallConfig", "lookup_call", "update_call"]

_SHARDING_MOD = 1
_PADDING = 2**31 - 1
"""Row and sample ids of unused places."""


@dataclass(frozen=True)
class CallConfig:
    """What a custom call's configuration says of a stack."""

    max_ids_per_partition: int
    max_unique_ids_per_partition: int
    minibatching: bool = False
    quantization: tuple[float, float, int] | None = None
    """Lowest and highest value, number of buckets; of a lookup's rows."""

    def json(self, **more: Any) -> str:
        """The backend configuration, with further entries."""
        config: dict[str, Any] = {
            "max_ids_per_partition": self.max_ids_per_partition,
            "max_unique_ids_per_partition": self.max_unique_ids_per_partition,
            "sharding_strategy": _SHARDING_MOD,
            "pad_value": _PADDING,
        } | more
        if self.quantization is not None:
            names = ("min_value", "max_value", "num_buckets")
            config["quantization_config"] = dict(zip(names, self.quantization, strict=True))
        return json.dumps(
            {"sparse_dense_matmul_config": config, "device_type": "DEVICE_TYPE_SPARSECORE"}
        )


def lookup_call(
    batch: StackInput, table: jax.Array, *, samples: int, config: CallConfig
) -> jax.Array:
    """Activations ``[samples, width]`` (or ``[samples]`` of a table of one dimension)."""
    zeros = jnp.zeros((samples, *table.shape[1:]), jnp.float32)
    return _lookup.bind(*_buffers(batch, config), table, zeros, config=config)


def update_call(
    batch: StackInput,
    variables: Sequence[jax.Array],
    gradients: jax.Array,
    hyperparameters: Sequence[jax.Array],
    *,
    config: CallConfig,
    name: str,
    row_update: ClosedJaxpr,
) -> list[jax.Array]:
    """The table and its slot variables after the update, in their order.

    Args:
        batch: The buffers.
        variables: The table and its slot variables, all of one shape.
        gradients: Of the activations.
        hyperparameters: Scalars.
        config: The call's configuration.
        name: Name of the computation.
        row_update: The optimizer's update of one row.
    """
    if config.minibatching:
        operands = [*_buffers(batch, config), *variables, gradients, *hyperparameters]
    else:
        operands = [*_buffers(batch, config), gradients, *variables, *hyperparameters]
    config = dataclasses.replace(config, quantization=None)
    shapes = tuple((array.shape, array.dtype) for array in variables)
    return _update.bind(
        *operands,
        config=config,
        name=name,
        row_update=row_update,
        variables=shapes,
        hyperparameters=len(hyperparameters),
    )


def _buffers(batch: StackInput, config: CallConfig) -> list[jax.Array]:
    minibatches = [batch.num_minibatches.reshape(())] if config.minibatching else []
    return [*batch[:4], *minibatches]


_lookup = Primitive("sparsecore_lookup")
_update = Primitive("sparsecore_update")
_update.multiple_results = True


@_lookup.def_abstract_eval
def _activations_shape(*operands: ShapedArray, config: CallConfig) -> ShapedArray:
    del config
    return ShapedArray(operands[-1].shape, operands[-1].dtype)


@_update.def_abstract_eval
def _variable_shapes(*operands: ShapedArray, variables: Any, **_: Any) -> list[ShapedArray]:
    del operands
    return [ShapedArray(shape, dtype) for shape, dtype in variables]


def _lower_lookup(
    ctx: mlir.LoweringRuleContext, *operands: ir.Value, config: CallConfig
) -> Sequence[Any]:
    middle = "WithMinibatching" if config.minibatching else ""
    result = mlir.aval_to_ir_type(ctx.module_context, ctx.avals_out[0])
    return _custom_call(ctx, f"SparseDenseMatmul{middle}Op", operands, result, config.json())


def _lower_update(
    ctx: mlir.LoweringRuleContext,
    *operands: ir.Value,
    config: CallConfig,
    name: str,
    row_update: ClosedJaxpr,
    variables: Any,
    hyperparameters: int,
) -> Sequence[ir.Value]:
    target = (
        "SparseDenseMatmulGradOptimizerUpdateWithMinibatchingOp"
        if config.minibatching
        else "SparseDenseMatmulGradOpWithOptimizerUpdate"
    )
    types = [mlir.aval_to_ir_type(ctx.module_context, aval) for aval in ctx.avals_out]
    (updated,) = _custom_call(
        ctx,
        target,
        operands,
        ir.TupleType.get_tuple(types),
        config.json(num_slot_variables=len(variables) - 1, num_hyperparameters=hyperparameters),
        called_computations=[emit_computation(ctx, name, row_update)],
    )
    # So that taking the tuple apart stays on the SparseCores, and moves nothing.
    sparse = ir.DictAttr.get({"_xla_compute_type": ir.StringAttr.get("sparse")})
    results = []
    for number in range(len(variables)):
        part = hlo.GetTupleElementOp(updated, number)
        part.attributes["mhlo.frontend_attributes"] = sparse
        results.append(part.result)
    return results


def _custom_call(
    ctx: mlir.LoweringRuleContext,
    target: str,
    operands: Sequence[ir.Value],
    result: ir.Type,
    config: str,
    **options: Any,
) -> Sequence[Any]:
    rule = jax.ffi.ffi_lowering(
        target,
        result_types=[result],
        backend_config=config,
        skip_ffi_layout_processing=True,
        api_version=1,
        **options,
    )
    return rule(ctx, *operands)


# Without a platform named, so that a program for TPUs can be lowered on any machine. Elsewhere XLA
# refuses the targets by name.
mlir.register_lowering(_lookup, _lower_lookup)
mlir.register_lowering(_update, _lower_update)
