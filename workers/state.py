"""The state that is trained: tables, model and optimizer, and how they lie on the mesh."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from kernels import EmbeddingPlan, EmbeddingVariables, FeatureSpec, initialize_tables
from workers.mesh import AXIS, everywhere, table_format
from workers.program import Program

__all__ = ["STATE_SPECS", "TrainState", "abstract_state", "advance", "initial_state"]


class TrainState(NamedTuple):
    """Everything a checkpoint must hold.

    Attributes:
        step: int32 scalar, steps done.
        tables: By table stack, rows spread over the devices.
        parameters: The model's, the same on every device.
        optimizer_state: optax state of the parameters.
    """

    step: jax.Array
    tables: dict[str, EmbeddingVariables]
    parameters: Any
    optimizer_state: Any


_SPECS: tuple[Any, ...] = (PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(), PartitionSpec())
STATE_SPECS = TrainState(*_SPECS)
"""How a state lies on the mesh: only tables are spread."""


def initial_state(
    program: Program,
    plan: EmbeddingPlan,
    specs: Mapping[str, FeatureSpec],
    mesh: Mesh,
    seed: int,
) -> TrainState:
    """The state before the first step; the same numbers on every mesh.

    Args:
        program: What is trained.
        plan: Where table rows lie.
        specs: Feature specs with the plan applied.
        mesh: All devices.
        seed: Seed of tables and parameters.
    """
    tables = initialize_tables(plan, dict(specs), mesh, seed)

    def make_dense() -> tuple[jax.Array, Any, Any]:
        activations = {
            name: jnp.zeros(
                (spec.output_shape[0] // plan.batch_size, spec.table_spec.embedding_dim)
            )
            for name, spec in specs.items()
        }
        key = jax.random.key(seed)
        parameters = program.model.init(key, activations, jnp.zeros((1, len(program.dense))))
        return jnp.zeros((), jnp.int32), parameters, program.optimizer.init(parameters)

    step, parameters, optimizer_state = jax.jit(make_dense, out_shardings=everywhere(mesh))()
    return TrainState(step, tables, parameters, optimizer_state)


def abstract_state(
    program: Program,
    plan: EmbeddingPlan,
    specs: Mapping[str, FeatureSpec],
    mesh: Mesh,
) -> TrainState:
    """Shapes, types and layouts of the state, for a restore: holds no array."""
    shapes = jax.eval_shape(lambda: initial_state(program, plan, specs, mesh, seed=0))

    def laid(sharding: Any, tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    return laid(everywhere(mesh), shapes)._replace(tables=laid(table_format(mesh), shapes.tables))


@functools.partial(jax.jit, donate_argnums=0)
def _next_number(step: jax.Array) -> jax.Array:
    return step + 1


def advance(state: TrainState) -> TrainState:
    """The state one step on, for a batch that is passed over."""
    return state._replace(step=_next_number(state.step))
