"""The command of the README, on the whole data: it learns, and writes what it says it writes."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import yaml

from tests.runs import Run
from workers.program import load_program
from workers.saved_tables import SavedTables

pytestmark = pytest.mark.system


# It has a Ray cluster of its own (orchestrator.ray_session.RaySession).
def test_train_with_nothing_given(start: Callable[..., Run]) -> None:
    run = start()
    summary = run.finish(seconds=1200)
    assert summary["status"] == "finished"
    assert (summary["hosts"], summary["devices"]) == (2, 4)
    assert summary["restarts"] == 0, run.events("recovering")
    assert summary["epochs"] <= 3
    assert summary["examples"] == 295_118 * summary["epochs"]
    test = summary["metrics"]["test"]
    assert test["auc"] >= 0.752
    assert test["normalised_entropy"] <= 0.865
    assert test["examples"] == 32_228
    assert summary["examples_per_second"] > 0
    assert sorted(run.losses()) == list(range(summary["steps"]))
    goodput = summary["goodput"]
    assert min(goodput.values()) >= 0
    assert goodput["training"] > 0
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["hosts"] == 2
    plan = json.loads((run.folder / "plan-0.json").read_text())
    assert plan["version"] == 0
    assert (run.folder / "checkpoints" / str(summary["steps"])).is_dir()
    assert list((run.folder / "tensorboard").glob("events*"))
    assert (run.folder / "data-index.arrow").is_file()
    said = "".join(log.read_text() for log in (run.folder / "logs").rglob("*") if log.is_file())
    assert "opened file by file" not in said, "hosts take the driver's index"
    # Rows of both hosts, each once; the state of the last evaluation is the last one saved.
    counted = run.events("row_norms")[-1]
    assert counted["step"] == summary["steps"]
    rows = {table["name"]: table["vocabulary_size"] for table in plan["tables"]}
    assert {name: norms["rows"] for name, norms in counted["tables"].items()} == rows
    program = load_program(config["program"], config["parameters"])
    for table in ("flight", "carrier"):
        norms = np.linalg.norm(SavedTables(run.folder, program).rows(table), axis=1)
        found = counted["tables"][table]
        assert (found["least"], found["most"]) == pytest.approx(
            (norms.min(), norms.max()), rel=1e-5
        )
        assert found["total"] == pytest.approx(norms.sum(), rel=1e-5)
    kinds = {event["kind"] for event in run.events()}
    assert {"host_started", "plan_made", "plan_confirmed", "lease_done", "finished"} <= kinds
