"""The jitted step that predicts, and the state it needs: tables and model, without optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from kernels import EmbeddingPlan, EmbeddingVariables, FeatureSpec, tpu_sparse_dense_matmul
from workers.errors import CheckpointError
from workers.mesh import AXIS, everywhere, table_format
from workers.program import Program
from workers.relayout import open_arrays, place_of, read_tables
from workers.saved_tables import SavedTables
from workers.scoring import abstract_parameters, scores_of
from workers.training import DeviceBatch, lookup_arguments

__all__ = ["ServedState", "load_state", "make_prediction_step", "own_rows"]


class ServedState(NamedTuple):
    """What predictions are made with.

    Attributes:
        tables: By table stack, rows spread over the devices, without slot variables.
        parameters: The model's, the same on every device.
    """

    tables: dict[str, EmbeddingVariables]
    parameters: Any


type PredictionStep = Callable[[ServedState, DeviceBatch], dict[str, jax.Array]]


def make_prediction_step(
    program: Program,
    specs: Mapping[str, FeatureSpec],
    plan: EmbeddingPlan,
    mesh: Mesh,
    method: str,
) -> PredictionStep:
    """The jitted step: (state, batch) → columns of the batch's samples, spread like them.

    Args:
        program: What was trained.
        specs: Feature specs with the plan applied.
        plan: Where table rows lie.
        mesh: All devices.
        method: See `workers.scoring`.
    """
    arguments = lookup_arguments(plan, mesh)

    def device_step(state: ServedState, batch: DeviceBatch) -> dict[str, jax.Array]:
        activations = tpu_sparse_dense_matmul(batch.inputs, state.tables, dict(specs), **arguments)
        return scores_of(program, method, state.parameters, activations, batch.dense)

    spread: Any = PartitionSpec(AXIS)
    mapped = jax.shard_map(
        device_step,
        mesh=mesh,
        in_specs=(ServedState(spread, PartitionSpec()), spread),
        out_specs=spread,
        check_vma=False,
    )
    return jax.jit(mapped)


def load_state(
    program: Program,
    specs: Mapping[str, FeatureSpec],
    plan: EmbeddingPlan,
    mesh: Mesh,
    saved: SavedTables,
) -> ServedState:
    """Tables and model of a checkpoint, laid out by any plan of the same tables.

    Every host calls it and reads the rows that are its own.

    Raises:
        CheckpointError: The checkpoint cannot be read, or holds another model.
    """
    layout = table_format(mesh)

    def empty(shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=layout)()

    stored = open_arrays(saved.folder / "tables")
    fresh = {}
    for stack in plan.stacks:
        before = place_of(saved.plan, stack.tables[0].table).stack.name
        dtype = stored(f"{before}.table").dtype.numpy_dtype
        fresh[stack.name] = EmbeddingVariables(empty((stack.vocab_size, stack.width), dtype), ())
    try:
        tables = read_tables(saved.folder / "tables", saved.plan, plan, fresh)
    except ValueError as error:
        raise CheckpointError(
            f"tables of checkpoint {saved.step} cannot be read: {error}"
        ) from error
    parameters = saved.parameters(abstract_parameters(program))
    whole = everywhere(mesh)
    return ServedState(
        tables,
        jax.tree.map(
            lambda array: jax.make_array_from_callback(
                array.shape, whole, lambda index, array=array: array[index]
            ),
            parameters,
        ),
    )


def own_rows(array: jax.Array) -> np.ndarray:
    """This host's part of an array that is spread over the devices, in its order."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
