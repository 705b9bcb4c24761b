"""The jitted train step.

One train step, on every device of the mesh, inside one ``shard_map``:

    ids of my samples ──lookup, exchanging rows with the other devices──► activations
    activations, dense columns ──model──► logits ──loss──► gradients
    parameter gradients: summed over devices, optax update on every device alike
    activation gradients ──sent to the rows' owners──► fused optimizer update of tables, in place

The state is donated: tables are updated where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec, Sharding

from kernels import (
    EmbeddingPlan,
    FeatureSpec,
    PreprocessedInput,
    tpu_sparse_dense_matmul,
    tpu_sparse_dense_matmul_grad,
)
from workers.counting import MetricState, count_samples, empty_metrics, metrics_on_host
from workers.mesh import AXIS, everywhere, platform_of, spread, table_format
from workers.program import Program
from workers.state import STATE_SPECS, TrainState, abstract_state, advance, initial_state

__all__ = [
    "STATE_SPECS",
    "DeviceBatch",
    "MetricState",
    "StepOutcome",
    "TrainState",
    "abstract_state",
    "advance",
    "count_samples",
    "empty_metrics",
    "initial_state",
    "logits_of",
    "lookup_arguments",
    "make_train_step",
    "metrics_on_host",
]


class DeviceBatch(NamedTuple):
    """A global batch, spread over the devices along the first dimension of every array.

    Attributes:
        inputs: Buffers of ids.
        dense: float32 ``[batch, columns]``.
        labels: float32 ``[batch]``.
        weights: float32 ``[batch]``.
        riding: With minibatching, int32 ``[devices, CUTS]``: where a later batch is to be cut, as
            its host alone needs it (see ``workers.minibatches``).
    """

    inputs: PreprocessedInput
    dense: jax.Array
    labels: jax.Array
    weights: jax.Array
    riding: jax.Array | None = None


class StepOutcome(NamedTuple):
    """What a train step says of itself; the same on all devices.

    Attributes:
        loss: float32 scalar.
        non_finite: int32 ``[2 + features]``: on how many devices the loss, a gradient of the
            model's parameters, and activations or gradients of each feature (in the order of their
            names) were not finite.
        agreed: int32 ``[CUTS]``: how many devices need each cut of the later batch; None if the
            batch carried nothing.
    """

    loss: jax.Array
    non_finite: jax.Array
    agreed: jax.Array | None = None


def make_train_step(
    program: Program,
    specs: Mapping[str, FeatureSpec],
    plan: EmbeddingPlan,
    mesh: Mesh,
    *,
    skip_non_finite: bool = False,
) -> Callable[[TrainState, MetricState, DeviceBatch], tuple[TrainState, MetricState, StepOutcome]]:
    """The jitted train step: (state, metrics, batch) → (state, metrics, outcome).

    State and metrics are donated. The loss is the weighted mean over the global batch before the
    update.

    Args:
        program: What is trained.
        specs: Feature specs with the plan applied.
        plan: Where table rows lie.
        mesh: All devices.
        skip_non_finite: Whether a step in which something is not finite changes nothing but the
            step number.
    """
    arguments = lookup_arguments(plan, mesh)

    def device_step(
        state: TrainState, metrics: MetricState, batch: DeviceBatch
    ) -> tuple[TrainState, MetricState, StepOutcome]:
        activations = tpu_sparse_dense_matmul(batch.inputs, state.tables, dict(specs), **arguments)
        total_weight = jax.lax.psum(jnp.sum(batch.weights), AXIS)

        def loss_of(parameters: Any, activations: Any) -> tuple[jax.Array, jax.Array]:
            logits = logits_of(program, parameters, activations, batch.dense)
            losses = program.loss(logits, batch.labels, activations)
            return jnp.sum(batch.weights * losses) / jnp.maximum(total_weight, 1e-6), logits

        (loss, logits), (parameter_gradients, activation_gradients) = jax.value_and_grad(
            loss_of, argnums=(0, 1), has_aux=True
        )(state.parameters, activations)
        flags = _non_finite(loss, parameter_gradients, activations, activation_gradients)
        told = flags if batch.riding is None else jnp.concatenate([flags, batch.riding[0]])
        loss, parameter_gradients, told = jax.lax.psum((loss, parameter_gradients, told), AXIS)
        flags = told[: flags.size]
        agreed = None if batch.riding is None else told[flags.size :]

        def updated() -> tuple[TrainState, MetricState]:
            updates, optimizer_state = program.optimizer.update(
                parameter_gradients, state.optimizer_state, state.parameters
            )
            tables = tpu_sparse_dense_matmul_grad(
                activation_gradients,
                batch.inputs,
                state.tables,
                dict(specs),
                step=state.step,
                **arguments,
            )
            if program.ridge is not None:
                tables = program.ridge.drawn(tables, specs, state.step, platform_of(mesh))
            new_state = TrainState(
                state.step + 1,
                dict(tables),
                optax.apply_updates(state.parameters, updates),
                optimizer_state,
            )
            return new_state, count_samples(metrics, logits, batch)

        def unchanged() -> tuple[TrainState, MetricState]:
            return state._replace(step=state.step + 1, tables=dict(state.tables)), metrics

        if skip_non_finite:
            new_state, counted = jax.lax.cond(jnp.any(flags > 0), unchanged, updated)
        else:
            new_state, counted = updated()
        return new_state, counted, StepOutcome(loss, flags, agreed)

    mapped = jax.shard_map(
        device_step,
        mesh=mesh,
        in_specs=(STATE_SPECS, PartitionSpec(AXIS), PartitionSpec(AXIS)),
        out_specs=(STATE_SPECS, PartitionSpec(AXIS), PartitionSpec()),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(0, 1), **_kept_layouts(mesh))


def _kept_layouts(mesh: Mesh) -> dict[str, Any]:
    """What `jax.jit` must be told so that the train step takes and returns tables as they lie.

    Nothing where tables lie as any other array. On TPUs, tables in another layout are refused by
    JAX, where a copy would be made in every step; and results in another layout could not take the
    place of what was donated.
    """
    stored: Any = table_format(mesh)
    if isinstance(stored, Sharding):
        return {}
    dense: Any = everywhere(mesh)
    state = TrainState(dense, stored, dense, dense)
    return {
        "in_shardings": (state, spread(mesh), spread(mesh)),
        "out_shardings": (state, spread(mesh), dense),
    }


def lookup_arguments(plan: EmbeddingPlan, mesh: Mesh) -> dict[str, Any]:
    """What lookup and update must be told of the plan and the mesh."""
    return {
        "global_device_count": plan.topology.devices,
        "num_sc_per_device": plan.topology.sparsecores_per_device,
        "enable_minibatching": plan.minibatching,
        "platform": platform_of(mesh),
    }


def logits_of(program: Program, parameters: Any, activations: Any, dense: jax.Array) -> jax.Array:
    """The model's logits of a device's samples, ``[n]``."""
    return cast(jax.Array, program.model.apply(parameters, activations, dense))


def _non_finite(
    loss: jax.Array,
    parameter_gradients: Any,
    activations: Any,
    activation_gradients: Any,
) -> jax.Array:
    """``StepOutcome.non_finite`` of one device: zeros and ones."""

    def bad(*arrays: jax.Array) -> jax.Array:
        found = [jnp.any(~jnp.isfinite(array)) for array in arrays]
        return jnp.any(jnp.stack(found)) if found else jnp.zeros((), bool)

    features = [
        bad(*jax.tree.leaves((activations[name], activation_gradients[name])))
        for name in sorted(activations)
    ]
    flags = [bad(loss), bad(*jax.tree.leaves(parameter_gradients)), *features]
    return jnp.stack(flags).astype(jnp.int32)
