"""The backend for TPUs: lookup and update on their SparseCores.

The SparseCores exchange ids and rows between the devices themselves, sum the gradients of a row and
update it where it lies. XLA compiles all that from one custom call each, see `tpu_calls`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.backends.interface import StackInput, StackLayout
from kernels.backends.tpu_calls import CallConfig, lookup_call, update_call
from kernels.backends.tpu_computation import trace_row_update
from kernels.backends.xla import XlaBackend
from kernels.errors import SpecError
from kernels.optimizers import RowWiseAdagradOptimizerSpec
from kernels.specs import StackedTableSpec
from kernels.variables import EmbeddingVariables, like_slots

__all__ = ["TpuBackend"]


class TpuBackend:
    """Lookup and update of one stack on one TPU chip's SparseCores."""

    name = "tpu"

    def lookup(self, layout: StackLayout, batch: StackInput, table: jax.Array) -> jax.Array:
        """See `Backend.lookup`.

        Raises:
            SpecError: If the table is not of float32.
        """
        _check_float32(layout.stack, table)
        samples = layout.samples_per_sparsecore * layout.sparsecores_per_device
        return lookup_call(batch, table, samples=samples, config=_config(layout))

    def update(
        self,
        layout: StackLayout,
        batch: StackInput,
        variables: EmbeddingVariables,
        gradients: jax.Array,
        hyperparameters: tuple[jax.Array, ...],
        bounds: tuple[float | None, float | None],
    ) -> EmbeddingVariables:
        """See `Backend.update`.

        Raises:
            SpecError: If the table or a slot variable is not of float32, or a slot variable is not
                as wide as the table.
        """
        stack, arrays = layout.stack, [variables.table, *variables.slot]
        for array in arrays:
            _check_float32(stack, array)
        _check_widths(stack, arrays)
        row_update = trace_row_update(
            stack.optimizer,
            arrays,
            hyperparameters,
            bounds,
            stack.unpadded_embedding_dim or stack.stack_embedding_dim,
        )
        updated = update_call(
            batch,
            arrays,
            gradients,
            hyperparameters,
            config=_config(layout),
            name=f"{stack.optimizer.short_name()}-{stack.stack_name}",
            row_update=row_update,
        )
        return EmbeddingVariables(updated[0], like_slots(variables.slot, updated[1:]))

    def table_gradients(
        self, layout: StackLayout, batch: StackInput, gradients: jax.Array, table: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `Backend.table_gradients`: in plain JAX, as no SparseCore call returns them."""
        return XlaBackend().table_gradients(layout, batch, gradients, table)


def _config(layout: StackLayout) -> CallConfig:
    stack = layout.stack
    quantization = stack.quantization_config
    return CallConfig(
        max_ids_per_partition=int(stack.max_ids_per_partition),
        max_unique_ids_per_partition=int(stack.max_unique_ids_per_partition),
        minibatching=layout.enable_minibatching,
        quantization=None if quantization is None else quantization.as_tuple(),
    )


def _check_float32(stack: StackedTableSpec, array: jax.Array) -> None:
    if array.dtype != jnp.float32:
        raise SpecError(
            f"stack '{stack.stack_name}': embedding_table must have type float32 on TPUs, got "
            f"{array.dtype}; SparseCores read no other type: make the table of float32"
        )


def _check_widths(stack: StackedTableSpec, arrays: list[jax.Array]) -> None:
    shapes = [array.shape for array in arrays]
    if all(shape == shapes[0] for shape in shapes):
        return
    if isinstance(stack.optimizer, RowWiseAdagradOptimizerSpec):
        raise SpecError(
            f"stack '{stack.stack_name}': row-wise Adagrad keeps one number a row, but SparseCores "
            "update slot variables as wide as the table only; on TPUs use AdagradOptimizerSpec, or "
            "a CustomOptimizerSpec that keeps the number in every column of its slot"
        )
    raise SpecError(
        f"stack '{stack.stack_name}': embedding_table and slot variables must have equal shapes on "
        f"TPUs, got {shapes}; make every slot as wide as the table"
    )
