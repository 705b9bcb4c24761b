"""Evaluation of a split: every row once, counted on the devices, summed on the hosts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from kernels import EmbeddingPlan, FeatureSpec, tpu_sparse_dense_matmul
from workers.batches import ReadyBatch
from workers.mesh import AXIS, spread
from workers.metrics import BinaryMetrics
from workers.phases import Phases
from workers.program import Program
from workers.ranking import Ranking, ranking_counts, ranks_of
from workers.ranking_metrics import RankingMetrics
from workers.training import (
    STATE_SPECS,
    DeviceBatch,
    MetricState,
    TrainState,
    count_samples,
    empty_metrics,
    logits_of,
    lookup_arguments,
    metrics_on_host,
)

__all__ = ["EvaluationState", "empty_counts", "evaluate", "make_evaluation_step"]

METRIC_STEPS = 256
"""Most steps whose samples are counted on the devices, in float32, before the hosts add them up."""

EXACT_COUNT = 1 << 24
"""Most samples of a device counted so: beyond it, a float32 does not grow by 1 any more."""


class EvaluationState(NamedTuple):
    """Every device's own counts.

    Attributes:
        metrics: Of predictions.
        ranking: float32 ``[devices, most relevant, depth + 1]``: see
            `workers.ranking.ranking_counts`; None if the program has no ranking.
    """

    metrics: MetricState
    ranking: jax.Array | None


type EvaluationStep = Callable[[TrainState, EvaluationState, DeviceBatch], EvaluationState]


def make_evaluation_step(
    program: Program, specs: Mapping[str, FeatureSpec], plan: EmbeddingPlan, mesh: Mesh
) -> EvaluationStep:
    """The jitted evaluation step: (state, counts, batch) → counts, which are donated.

    Raises:
        ProgramError: When it is traced, if the model's ranking method returns other shapes than
            the program's ``ranking`` says.
    """
    arguments = lookup_arguments(plan, mesh)
    ranking = program.ranking

    def device_step(
        state: TrainState, counts: EvaluationState, batch: DeviceBatch
    ) -> EvaluationState:
        activations = tpu_sparse_dense_matmul(batch.inputs, state.tables, dict(specs), **arguments)
        logits = logits_of(program, state.parameters, activations, batch.dense)
        metrics = count_samples(counts.metrics, logits, batch)
        if ranking is None or counts.ranking is None:
            return EvaluationState(metrics, None)
        said = program.model.apply(
            state.parameters, activations, batch.dense, method=ranking.method
        )
        ranks = ranks_of(ranking, *cast(tuple[jax.Array, jax.Array], said))
        weights = jnp.where(batch.labels > 0, batch.weights, 0.0)
        counted = ranking_counts(ranks, weights, max(ranking.cutoffs))
        return EvaluationState(metrics, counts.ranking + counted)

    mapped = jax.shard_map(
        device_step,
        mesh=mesh,
        in_specs=(STATE_SPECS, PartitionSpec(AXIS), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=1)


def empty_counts(ranking: Ranking | None, mesh: Mesh) -> EvaluationState:
    """Counts of no sample."""
    if ranking is None:
        return EvaluationState(empty_metrics(mesh), None)
    return EvaluationState(empty_metrics(mesh), _maker_of_zeros(ranking.shape, mesh)())


@functools.cache
def _maker_of_zeros(shape: tuple[int, int], mesh: Mesh) -> Callable[[], jax.Array]:
    """Compiled once a mesh."""
    return jax.jit(lambda: jnp.zeros((mesh.size, *shape)), out_shardings=spread(mesh))


def evaluate(
    program: Program,
    step: EvaluationStep,
    state: TrainState,
    batches: Iterator[ReadyBatch],
    steps: int,
    mesh: Mesh,
    phases: Phases,
    may_run: Callable[[int], bool] = lambda step: True,
) -> tuple[BinaryMetrics, RankingMetrics | None] | None:
    """Count every row of a split once.

    Args:
        program: What is evaluated.
        step: Made by `make_evaluation_step`.
        state: Tables and model.
        batches: The split's batches, in order.
        steps: How many there are; more are not taken.
        mesh: All devices.
        phases: Told when data is waited for.
        may_run: Asked before each step, which is counted from 0, whether to go on.

    Returns:
        This host's share: merge it over hosts. The second is None if the program has no ranking.
        None if it was not to go on.
    """
    ranking = program.ranking
    total = BinaryMetrics.empty()
    ranked = (
        None if ranking is None else RankingMetrics.of(np.zeros(ranking.shape), ranking.cutoffs)
    )
    counts, counted = empty_counts(ranking, mesh), 0
    for number in range(1, steps + 1):
        if not may_run(number - 1):
            return None
        with phases.within("waiting_for_data"):
            ready = next(batches)
        counts = step(state, counts, ready.batch)
        jax.block_until_ready(counts)
        counted += 1
        own_samples = max(1, ready.batch.labels.shape[0] // mesh.size)
        if number == steps or counted >= min(METRIC_STEPS, EXACT_COUNT // own_samples):
            total = total.merge(metrics_on_host(counts.metrics))
            if ranked is not None and counts.ranking is not None:
                ranked = ranked.merge(RankingMetrics.of(_own(counts.ranking), ranked.cutoffs))
            counts, counted = empty_counts(ranking, mesh), 0
    return total, ranked


def _own(counts: jax.Array) -> np.ndarray:
    """The sum over this host's devices."""
    shards = [np.asarray(shard.data, np.float64) for shard in counts.addressable_shards]
    return np.concatenate(shards).sum(axis=0)
