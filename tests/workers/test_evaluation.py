"""Counts of an evaluation, which devices keep in float32."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from workers import evaluation
from workers.mesh import make_mesh
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
