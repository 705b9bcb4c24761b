"""``ray job submit`` of a program that lies in the submitted folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import ROOT, RayHead

pytestmark = pytest.mark.system

PROGRAM = '''
"""The flights, under another name and narrower: in a module that only the job's folder has."""

import dataclasses

from workers.programs import flights


def program(width: int = 16, total_steps: int = 1):
    return dataclasses.replace(
        flights.program(embedding_dim=width, total_steps=total_steps), name="submitted"
    )
'''


def submit(head: RayHead, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **head.environment}
    del environment["RAY_ADDRESS"]  # of the cluster; jobs go to the dashboard's
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
    train = ["python", "-m", "orchestrator", "train", *arguments]
    submitted = [*command, "--address", head.dashboard, "--working-dir", str(folder), "--", *train]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            submitted,
            env=environment,
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=240,
            check=False,
        )
        # The dashboard serves a while before the part of Ray that takes jobs is there.
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)


def test_a_submitted_program_trains_and_is_resumed_by_submitting_it_again(
    small_flights: Path, ray_head: RayHead, tmp_path: Path
) -> None:
    folder, run = tmp_path / "work", tmp_path / "run"
    folder.mkdir()
    (folder / "submitted_program.py").write_text(PROGRAM)
    (folder / "run.yaml").write_text(
        f"program: submitted_program:program\nparameters: {{width: 8}}\ndata: {small_flights}\n"
        "batch_size: 512\nepochs: 1\nmax_steps: 20\n"
    )
    done = submit(ray_head, folder, "run.yaml", "--resume", "--run-dir", str(run))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["program"], summary["steps"]) == (
        "finished",
        "submitted",
        20,
    )
    again = submit(ray_head, folder, "run.yaml", "max_steps=30", "--resume", "--run-dir", str(run))
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((run / "summary.json").read_text())["steps"] == 30
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "split" not in line] == list(range(30))


def test_a_job_with_bad_input_fails_with_one_clear_line(ray_head: RayHead, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    done = submit(ray_head, folder, "hots=3", "--run-dir", str(tmp_path / "run"))
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "error: unknown key 'hots' (did you mean 'hosts'?)" in output
    assert not (tmp_path / "run").exists()
