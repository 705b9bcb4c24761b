"""The jitted steps: training, evaluation, and the state they work on.

One train step, on every device of the mesh, inside one ``shard_map``:

    ids of my samples ──lookup, exchanging rows with the other devices──► activations
    activations, dense columns ──model──► logits ──loss──► gradients
    parameter gradients: summed over devices, optax update on every device alike
    activation gradients ──sent to the rows' owners──► fused optimizer update of tables, in place

The state is donated: tables are updated where they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec, Sharding

from kernels import (
    EmbeddingPlan,
    EmbeddingVariables,
    FeatureSpec,
    PreprocessedInput,
    initialize_tables,
    tpu_sparse_dense_matmul,
    tpu_sparse_dense_matmul_grad,
)
from workers.mesh import AXIS, everywhere, platform_of, spread, table_format
from workers.metrics import BINS, BinaryMetrics
from workers.program import Program

__all__ = [
    "DeviceBatch",
    "MetricState",
    "StepOutcome",
    "TrainState",
    "abstract_state",
    "advance",
    "empty_metrics",
    "initial_state",
    "make_evaluation_step",
    "make_train_step",
    "metrics_on_host",
]


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


class MetricState(NamedTuple):
    """Every device's own counts; summed on the hosts, never on the devices.

    Attributes:
        positives: float32 ``[devices, BINS]``.
        negatives: float32 ``[devices, BINS]``.
        sums: float32 ``[devices, 3]``: loss, weight, prediction.
    """

    positives: jax.Array
    negatives: jax.Array
    sums: jax.Array


class DeviceBatch(NamedTuple):
    """A global batch, spread over the devices along the first dimension of every array."""

    inputs: PreprocessedInput
    dense: jax.Array
    labels: jax.Array
    weights: jax.Array


class StepOutcome(NamedTuple):
    """What a train step says of itself; the same on all devices.

    Attributes:
        loss: float32 scalar.
        non_finite: int32 ``[2 + features]``: on how many devices the loss, a gradient of the
            model's parameters, and activations or gradients of each feature (in the order of their
            names) were not finite.
    """

    loss: jax.Array
    non_finite: jax.Array


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
            name: jnp.zeros((1, spec.table_spec.embedding_dim)) for name, spec in specs.items()
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


def empty_metrics(mesh: Mesh) -> MetricState:
    """Counts of no sample."""
    return _maker_of_empty_metrics(mesh)()


@functools.cache
def _maker_of_empty_metrics(mesh: Mesh) -> Callable[[], MetricState]:
    """Compiled once a mesh, as new counts are made after every lease."""

    def make() -> MetricState:
        bins = (mesh.size, BINS)
        return MetricState(jnp.zeros(bins), jnp.zeros(bins), jnp.zeros((mesh.size, 3)))

    return jax.jit(make, out_shardings=spread(mesh))


def metrics_on_host(metrics: MetricState) -> BinaryMetrics:
    """The counts of this host's devices, added up."""

    def local(array: jax.Array) -> np.ndarray:
        shards = [np.asarray(shard.data, np.float64) for shard in array.addressable_shards]
        return np.concatenate(shards).sum(axis=0)

    loss, weight, predicted = local(metrics.sums)
    return BinaryMetrics(
        local(metrics.positives),
        local(metrics.negatives),
        float(loss),
        float(weight),
        float(predicted),
    )


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
    lookup_arguments = _lookup_arguments(plan, mesh)

    def device_step(
        state: TrainState, metrics: MetricState, batch: DeviceBatch
    ) -> tuple[TrainState, MetricState, StepOutcome]:
        activations = tpu_sparse_dense_matmul(
            batch.inputs, state.tables, dict(specs), **lookup_arguments
        )
        total_weight = jax.lax.psum(jnp.sum(batch.weights), AXIS)

        def loss_of(parameters: Any, activations: Any) -> tuple[jax.Array, jax.Array]:
            logits = _logits(program, parameters, activations, batch.dense)
            losses = program.loss(logits, batch.labels, activations)
            return jnp.sum(batch.weights * losses) / jnp.maximum(total_weight, 1e-6), logits

        (loss, logits), (parameter_gradients, activation_gradients) = jax.value_and_grad(
            loss_of, argnums=(0, 1), has_aux=True
        )(state.parameters, activations)
        flags = _non_finite(loss, parameter_gradients, activations, activation_gradients)
        loss, parameter_gradients, flags = jax.lax.psum((loss, parameter_gradients, flags), AXIS)

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
                **lookup_arguments,
            )
            new_state = TrainState(
                state.step + 1,
                dict(tables),
                optax.apply_updates(state.parameters, updates),
                optimizer_state,
            )
            return new_state, _counted(metrics, logits, batch)

        def unchanged() -> tuple[TrainState, MetricState]:
            return state._replace(step=state.step + 1, tables=dict(state.tables)), metrics

        if skip_non_finite:
            new_state, counted = jax.lax.cond(jnp.any(flags > 0), unchanged, updated)
        else:
            new_state, counted = updated()
        return new_state, counted, StepOutcome(loss, flags)

    mapped = jax.shard_map(
        device_step,
        mesh=mesh,
        in_specs=(STATE_SPECS, PartitionSpec(AXIS), PartitionSpec(AXIS)),
        out_specs=(STATE_SPECS, PartitionSpec(AXIS), PartitionSpec()),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(0, 1), **_kept_layouts(mesh))


@functools.partial(jax.jit, donate_argnums=0)
def _next_number(step: jax.Array) -> jax.Array:
    return step + 1


def advance(state: TrainState) -> TrainState:
    """The state one step on, for a batch that is passed over."""
    return state._replace(step=_next_number(state.step))


def make_evaluation_step(
    program: Program, specs: Mapping[str, FeatureSpec], plan: EmbeddingPlan, mesh: Mesh
) -> Callable[[TrainState, MetricState, DeviceBatch], MetricState]:
    """The jitted evaluation step: (state, metrics, batch) → metrics, which are donated."""
    lookup_arguments = _lookup_arguments(plan, mesh)

    def device_step(state: TrainState, metrics: MetricState, batch: DeviceBatch) -> MetricState:
        activations = tpu_sparse_dense_matmul(
            batch.inputs, state.tables, dict(specs), **lookup_arguments
        )
        logits = _logits(program, state.parameters, activations, batch.dense)
        return _counted(metrics, logits, batch)

    mapped = jax.shard_map(
        device_step,
        mesh=mesh,
        in_specs=(STATE_SPECS, PartitionSpec(AXIS), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=1)


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


def _lookup_arguments(plan: EmbeddingPlan, mesh: Mesh) -> dict[str, Any]:
    return {
        "global_device_count": plan.topology.devices,
        "num_sc_per_device": plan.topology.sparsecores_per_device,
        "platform": platform_of(mesh),
    }


def _logits(program: Program, parameters: Any, activations: Any, dense: jax.Array) -> jax.Array:
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


def _counted(metrics: MetricState, logits: jax.Array, batch: DeviceBatch) -> MetricState:
    """Add a device's samples to its counts; the loss counted here is free of penalties."""
    losses = optax.sigmoid_binary_cross_entropy(logits, batch.labels)
    predictions = jax.nn.sigmoid(logits)
    bins = jnp.clip((predictions * BINS).astype(jnp.int32), 0, BINS - 1)
    positive = batch.weights * batch.labels
    sums = jnp.stack(
        [
            jnp.sum(batch.weights * losses),
            jnp.sum(batch.weights),
            jnp.sum(batch.weights * predictions),
        ]
    )
    return MetricState(
        metrics.positives.at[0, bins].add(positive),
        metrics.negatives.at[0, bins].add(batch.weights - positive),
        metrics.sums + sums,
    )
