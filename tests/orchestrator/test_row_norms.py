"""Norms of rows in a run: asked for at every evaluation, journalled, shown."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import evaluations, fit, simulation
from tensorboardX.proto import event_pb2

import kernels
from orchestrator import events
from orchestrator.events import as_record
from orchestrator.json_lines import read_lines, to_json
from orchestrator.observe import TensorBoard
from orchestrator.report import read_run, report_page
from tests.kernels.support import several_features
from workers.norm_histogram import EDGES, NormHistogram

__all__ = ["simulation"]


def histograms(folder: Path) -> dict[tuple[str, int], Any]:
    """What TensorBoard reads, by tag and step."""
    written: Any = event_pb2
    found = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        raw, at = file.read_bytes(), 0
        while at < len(raw):
            (length,) = struct.unpack_from("<Q", raw, at)
            event = written.Event.FromString(raw[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                if value.HasField("histo"):
                    found[value.tag, event.step] = value.histo
    return found


def norms_of(values: np.ndarray, not_finite: int = 0) -> NormHistogram:
    return NormHistogram.of_bins(
        np.histogram(values[values > 0], np.array(EDGES))[0].tolist(),
        zero=int(np.sum(values == 0)),
        not_finite=not_finite,
        least=float(values.min()),
        most=float(values.max()),
        total=float(values.sum()),
        squares=float(np.sum(values**2)),
    )


def test_every_evaluation_of_a_run_counts_norms(simulation: Any, tmp_path: Path) -> None:
    fit(tmp_path / "run")
    told = [line for line in read_lines(tmp_path / "run" / "events.jsonl")
            if line["kind"] == "row_norms"]  # fmt: skip
    assert [line["step"] for line in told] == evaluations(tmp_path / "run") == [50, 100]
    # Of the host 0 there are 10 rows, of the host 1 there are 11.
    norms = NormHistogram.of_record(told[-1]["tables"]["stack"])
    assert (norms.rows, norms.counts, norms.least, norms.most) == (21, (21,), 1.0, 1.0)
    shown = histograms(tmp_path / "run" / "tensorboard")
    assert sorted(shown) == [("row_norms/stack", 50), ("row_norms/stack", 100)]
    assert (shown["row_norms/stack", 100].num, shown["row_norms/stack", 100].sum) == (21, 21.0)


def test_a_run_that_wants_no_norms_has_none(simulation: Any, tmp_path: Path) -> None:
    fit(tmp_path / "run", evaluation={"row_norms": False})
    assert evaluations(tmp_path / "run") == [50, 100]
    assert "row_norms" not in {e["kind"] for e in read_lines(tmp_path / "run" / "events.jsonl")}
    assert not histograms(tmp_path / "run" / "tensorboard")


def test_tensorboard_gets_exact_sums_and_all_rows(tmp_path: Path) -> None:
    values = np.random.default_rng(0).lognormal(-1, 1, 500)
    values[:7] = 0.0
    board = TensorBoard(tmp_path)
    board(1.0, events.Restored(0))
    nothing = NormHistogram(rows=3, not_finite=3)
    board(1.0, events.RowNorms(9, {"users": norms_of(values, not_finite=2), "lost": nothing}))
    board.close()
    ((name, histogram),) = histograms(tmp_path).items()
    assert name == ("row_norms/users", 9)
    assert (histogram.min, histogram.max) == (0.0, values.max())
    assert histogram.num == sum(histogram.bucket) == 500
    assert histogram.sum == pytest.approx(values.sum())
    assert histogram.sum_squares == pytest.approx(np.sum(values**2))
    limits = np.array(histogram.bucket_limit)
    assert np.all(np.diff(limits) > 0)
    below = np.cumsum(histogram.bucket)
    for place, limit in enumerate(limits[:-1]):
        assert below[place] == np.sum((values < limit) | (values == 0))


def test_the_report_shows_the_norms_of_the_newest_evaluation(
    simulation: Any, tmp_path: Path
) -> None:
    fit(tmp_path / "run")
    run = read_run(tmp_path / "run")
    plan = kernels.build_plan(several_features(32), kernels.Topology(1, 2, 2), batch_size=32)
    values = np.random.default_rng(0).lognormal(-1, 1, 5000)
    tables = {
        "users": norms_of(values, not_finite=17),
        "shops": norms_of(np.zeros(40)),
        "<lost>": NormHistogram(rows=3, not_finite=3),
    }
    found = [as_record(1.0, events.RowNorms(step, tables)) for step in (run.steps, run.steps + 50)]
    lines = [line for line in run.events if line["kind"] != "row_norms"]
    page = report_page(replace(run, plans=[plan], events=[*lines, *found]))
    assert f"Norms of rows after step {run.steps}<" in page, "the later one was rolled back"
    assert "&lt;lost&gt;" in page and "<lost>" not in page
    for words in ("5,017", f"{tables['users'].quantile(0.5):.3g}", ">17<", f"{values.max():.3g}"):
        assert words in page, words
    assert page.count('role="img"') >= 3
    without = report_page(replace(run, plans=[plan], events=lines))
    assert "Norms of rows" not in without


def test_what_is_journalled_is_short(simulation: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0.3, 0.02, 100_000)
    line = to_json(as_record(1.0, events.RowNorms(9, {"users": norms_of(values)})))
    assert len(line) < 500
