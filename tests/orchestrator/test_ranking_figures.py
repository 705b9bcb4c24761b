"""Recall and NDCG from the hosts' answers to all places where figures of evaluations are used."""

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator import events, policies
from orchestrator.config import EarlyStoppingConfig
from orchestrator.config_loading import make_config
from orchestrator.hosts.simulated_lease import simulated_metrics
from orchestrator.observe.console import describe
from orchestrator.observe.files import MetricsFile
from orchestrator.reports import evaluation_report
from orchestrator.schedule import Schedule
from workers.protocol import Evaluated
from workers.ranking_metrics import RankingMetrics

SCHEDULE = Schedule.of(make_config({"epochs": 4}), 10)


def answer(rank: int, counts: list[float]) -> Evaluated:
    ranking = RankingMetrics.of(np.array([counts]), (1, 2))
    return Evaluated(rank, "test", simulated_metrics(4.0), ranking=ranking)


def report(step: int, *counts: list[float]) -> events.Evaluated:
    replies = [answer(rank, own) for rank, own in enumerate(counts)]
    return evaluation_report(replies, step, elapsed=1.0, schedule=SCHEDULE)


def test_hosts_are_weighed_by_their_samples() -> None:
    # One host has four samples and finds one at once; the other finds its only one second.
    figures = report(10, [1, 0, 4], [0, 1, 1]).metrics
    assert figures["recall@1"] == pytest.approx(1 / 5)
    assert figures["recall@2"] == pytest.approx(2 / 5)
    assert figures["ndcg@2"] == pytest.approx((1 + 1 / np.log2(3)) / 5)
    assert figures["ranked_examples"] == 5
    assert figures["examples"] == 8
    assert "auc" in figures


def test_without_a_ranking_there_are_no_such_figures() -> None:
    plain = [Evaluated(0, "test", simulated_metrics(4.0))]
    figures = evaluation_report(plain, 10, elapsed=1.0, schedule=SCHEDULE).metrics
    assert not [name for name in figures if "@" in name]


def test_they_are_shown_and_written(tmp_path: Path) -> None:
    event = report(10, [1, 0, 4], [0, 1, 1])
    line = describe(event)
    assert line is not None
    assert "recall@1 0.2000, ndcg@1 0.2000, recall@2 0.4000" in line
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file(0.0, event)
    file.close()
    written = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert written["metrics"]["recall@2"] == pytest.approx(0.4)


def test_they_tell_the_best_checkpoint_and_when_to_stop() -> None:
    found = {10: [1, 0, 4], 20: [2, 1, 4], 30: [2, 0, 4], 40: [1, 1, 4]}
    evaluations = {step: report(step, counts).metrics for step, counts in found.items()}
    assert policies.best_steps(evaluations, "recall@2", "max", 2) == (20, 30)
    settings = EarlyStoppingConfig(patience=2, metric="ndcg@2")
    assert policies.stop_early(evaluations, settings)
    assert not policies.stop_early({k: evaluations[k] for k in (10, 20, 30)}, settings)
