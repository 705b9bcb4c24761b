"""Counts of a split's samples on the devices, for the metrics: every device counts its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from workers.mesh import spread
from workers.metrics import BINS, BinaryMetrics

if TYPE_CHECKING:
    from workers.training import DeviceBatch

__all__ = ["MetricState", "count_samples", "empty_metrics", "metrics_on_host"]


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


def count_samples(metrics: MetricState, logits: jax.Array, batch: DeviceBatch) -> MetricState:
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

    def counted(weights: jax.Array) -> jax.Array:
        # The batch apart from what is there: 2^24 does not grow by single samples any more. Without
        # a barrier, XLA would add them one by one to the sum after all.
        own = jnp.zeros_like(metrics.positives).at[0, bins].add(weights)
        return jax.lax.optimization_barrier(own)

    return MetricState(
        metrics.positives + counted(positive),
        metrics.negatives + counted(batch.weights - positive),
        metrics.sums + sums,
    )
