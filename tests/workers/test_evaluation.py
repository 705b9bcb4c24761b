"""Counts of samples, which devices keep in float32."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workers import evaluation
from workers.counting import MetricState, count_samples
from workers.mesh import make_mesh
from workers.metrics import BINS
from workers.phases import Phases


@pytest.mark.parametrize(("exact", "rounds"), [(1 << 24, 1), (8, 3), (7, 5), (3, 5)])
def test_counts_are_added_up_before_they_cease_to_grow(
    exact: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh, samples, steps = make_mesh(jax.devices()[:2]), 4, 5
    batch = SimpleNamespace(labels=np.ones(2 * samples))
    seen: list[float] = []
    on_host = evaluation.metrics_on_host

    def step(state: Any, counts: Any, given: Any) -> Any:
        del state, given
        metrics = counts.metrics
        return counts._replace(metrics=metrics._replace(positives=metrics.positives + samples))

    def noted(metrics: Any) -> Any:
        seen.append(float(np.max(metrics.positives)))
        return on_host(metrics)

    monkeypatch.setattr(evaluation, "metrics_on_host", noted)
    monkeypatch.setattr(evaluation, "EXACT_COUNT", exact)
    program: Any = SimpleNamespace(ranking=None)
    batches: Any = iter([SimpleNamespace(batch=batch)] * steps)
    state: Any = None
    shares = evaluation.evaluate(program, step, state, batches, steps, mesh, Phases())
    assert shares is not None
    assert shares[0].positives[0] == 2 * steps * samples
    assert len(seen) == rounds
    assert max(seen) <= max(exact, samples)


def test_full_bins_take_more_samples() -> None:
    """One by one, they would vanish: a float32 of 2^24 stays what it is when 1 is added."""
    samples, full = 1000, float(1 << 24)
    bins = jnp.full((1, BINS), full)
    batch: Any = SimpleNamespace(labels=jnp.ones(samples), weights=jnp.ones(samples))
    before = MetricState(bins, bins, jnp.zeros((1, 3)))
    after = jax.jit(lambda metrics: count_samples(metrics, jnp.zeros(samples), batch))(before)
    assert float(after.positives[0, BINS // 2]) == full + samples
    assert float(after.negatives.max()) == full
