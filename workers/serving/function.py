"""Lookup and model as one function of plain JAX, exported as StableHLO.

    (tables, parameters, ids, dense) ─► columns

    tables       {table: [rows, width]}, as they were trained
    parameters   {path: array}, those of the model
    ids          {feature: int32 [batch, valency]}; below 0: no id
    dense        float32 [batch, dense columns]

Rows are gathered and added up as the ``xla`` backend does it: sums in float32, combiners sum, mean
and sqrtn, a sequence feature without adding up. Nothing of ours is called in it, so that it runs
wherever JAX does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from kernels import TableSpec
from kernels.backends.xla import decoded, encoded
from workers.errors import ProgramError
from workers.program import Feature, Program
from workers.scoring import scores_of

__all__ = ["PLATFORMS", "activation", "export_function"]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What the function is exported for; lowering needs none of these devices."""


def activation(feature: Feature, spec: TableSpec, table: jax.Array, ids: jax.Array) -> jax.Array:
    """What the model finds under a feature's name.

    Args:
        feature: The feature.
        spec: Of its table.
        table: ``[rows, width]``.
        ids: int32 ``[batch, valency]``; below 0, or beyond the table: no id.

    Returns:
        float32 ``[batch, width]``, or ``[batch * valency, width]`` of a sequence.
    """
    # Below 0 would count from the end.
    places = jnp.where(ids < 0, table.shape[0], ids)
    rows = jnp.take(table, places, axis=0, mode="fill", fill_value=0)
    rows = decoded(encoded(rows, spec.quantization_config), spec.quantization_config)
    held = (places < table.shape[0])[..., None]
    rows = jnp.where(held, rows.astype(jnp.float32), 0.0)
    if feature.sequence:
        return rows.reshape(-1, table.shape[1])
    total = jnp.sum(rows, axis=1)
    if spec.combiner == "sum":
        return total
    count = jnp.maximum(jnp.sum(held, axis=1), 1).astype(jnp.float32)
    return total / (jnp.sqrt(count) if spec.combiner == "sqrtn" else count)


def export_function(
    program: Program,
    method: str,
    tables: Mapping[str, np.dtype],
    parameters: Any,
    names: Sequence[str],
    batch: int | None = None,
) -> export.Exported:
    """The function, lowered for `PLATFORMS`.

    Args:
        program: What was trained.
        method: Method of the model: see `workers.scoring`.
        tables: Types of the tables' values.
        parameters: The model's parameters: shapes and types, or arrays.
        names: Names of its leaves, in their order.
        batch: Samples of a batch; None leaves it open.

    Raises:
        ProgramError: The model cannot be traced for a batch of any size.
    """
    specs = {table.name: table for table in program.tables}
    structure = jax.tree.structure(parameters)

    def function(
        tables: Mapping[str, jax.Array],
        parameters: Mapping[str, jax.Array],
        ids: Mapping[str, jax.Array],
        dense: jax.Array,
    ) -> dict[str, jax.Array]:
        activations = {
            feature.name: activation(
                feature, specs[feature.table], tables[feature.table], ids[feature.name]
            )
            for feature in program.features
        }
        model = jax.tree.unflatten(structure, [parameters[name] for name in names])
        return scores_of(program, method, model, activations, dense)

    size: Any = batch if batch is not None else export.symbolic_shape("batch")[0]

    def shape(*dimensions: Any, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(dimensions, dtype)

    arguments = (
        {
            name: shape(specs[name].vocabulary_size, specs[name].embedding_dim, dtype=dtype)
            for name, dtype in tables.items()
        },
        {
            name: shape(*leaf.shape, dtype=leaf.dtype)
            for name, leaf in zip(names, jax.tree.leaves(parameters), strict=True)
        },
        {
            feature.name: shape(size, feature.transform.valency, dtype=jnp.int32)
            for feature in program.features
        },
        shape(size, len(program.dense), dtype=jnp.float32),
    )
    try:
        return export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    except ProgramError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        remedy = (
            "; to leave the batch size open, take x.shape[0] where the model takes len(x), and let "
            "no branch depend on it; or give a size, as in batch=256"
            if batch is None
            else ""
        )
        raise ProgramError(
            f"the model of program '{program.name}' cannot be exported{remedy} "
            f"({type(error).__name__}: {said})"
        ) from error
