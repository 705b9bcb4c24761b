"""An experiment with cluster sizes among its keys, by successive halving, on one Ray cluster."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.json_lines import read_lines
from tests.runs import ROOT, RayHead

pytestmark = pytest.mark.system


def test_two_sizes_side_by_side_and_the_better_one_goes_on(
    small_data: Path, ray_head: RayHead, tmp_path: Path
) -> None:
    config = {
        "program": "tests.system.trapped:program",
        "data": str(small_data),
        "batch_size": 64,
        "devices_per_host": 1,
        "lease_steps": 10,
        "cluster": {"num_cpus_per_host": 0.5},
    }
    space = {"hosts": [1, 2]}
    file, folder = tmp_path / "sizes.yaml", tmp_path / "sizes"
    halving = {"steps": 10, "factor": 2}
    file.write_text(yaml.safe_dump({"config": config, "space": space, "halving": halving}))
    command = [sys.executable, "-m", "orchestrator", "experiment", str(file)]
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        env=os.environ | ray_head.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    logs = "".join(log.read_text() for log in folder.glob("logs/*"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    told = [line.split(" ")[0] for line in done.stdout.splitlines()]
    steps = [word for word in told if word in ("started", "finished", "failed")]
    assert steps == ["started", "started", "finished", "finished", "started", "finished"]

    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [(row["rung"], row["steps"]) for row in rows] == [("1", "20"), ("0", "10")]
    best = folder / "trials" / rows[0]["trial"]
    events = list(read_lines(best / "events.jsonl"))
    assert [event["step"] for event in events if event["kind"] == "restored"] == [0, 10]
    at_ten = {
        line["hosts"]: event["metrics"]["auc"]
        for run in folder.glob("trials/*")
        for line in read_lines(run / "events.jsonl")
        if line["kind"] == "run_started"
        for event in read_lines(run / "events.jsonl")
        if event["kind"] == "evaluated" and event["step"] == 10
    }
    # Batches do not depend on the number of hosts, so what is learned does not, either.
    assert at_ten[1] == pytest.approx(at_ten[2], abs=1e-3)
    assert json.loads((folder / "results.json").read_text())["finished"] is True
    page = (folder / "comparison.html").read_text()
    assert "001-seed0" in page
