"""A real run that goes on with one host, and with two again, in the middle of its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runs import ROOT, RayHead
from tests.system.undisturbed import ARGUMENTS, STEPS
from workers.checkpoint import read_checkpoint

pytestmark = pytest.mark.system

RESIZED = """
import sys, threading, time
from pathlib import Path
from orchestrator import Driver
from orchestrator.config_loading import load_config
from orchestrator.json_lines import read_lines

folder = Path(sys.argv[1])
driver = Driver(load_config(None, sys.argv[2:]), folder, quiet=True)

def done(kind, number):
    events = [event for event in read_lines(folder / "events.jsonl") if event["kind"] == kind]
    return len(events) >= number

def resize():
    for hosts, restored in ((1, 1), (2, 2)):
        while not done("restored", restored):
            time.sleep(0.05)
        time.sleep(0.1)
        driver.resize(hosts)

threading.Thread(target=resize, daemon=True).start()
with driver:
    driver.fit()
"""


def test_a_run_that_is_resized_twice(
    small_data: Path, ray_head: RayHead, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    settings = [f"data={small_data}", *ARGUMENTS, "lease_steps=30"]
    subprocess.run(
        [sys.executable, "-c", RESIZED, str(folder), *settings],
        check=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, **ray_head.environment},
    )
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    launched = [event["hosts"] for event in events if event["kind"] == "launching"]
    assert launched == [2, 1, 2]
    assert [e["reason"] for e in events if e["kind"] == "handing_over"] == ["resize", "resize"]
    restored = [event["step"] for event in events if event["kind"] == "restored"]
    assert restored == sorted(restored)

    def losses(run: Path) -> dict[int, float]:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return {line["step"]: line["loss"] for line in lines if "split" not in line}

    ours, theirs = losses(folder), losses(undisturbed)
    assert sorted(ours) == list(range(STEPS))
    steps = sorted(ours)
    np.testing.assert_allclose(
        [ours[step] for step in steps], [theirs[step] for step in steps], rtol=1e-4
    )
    # Tables lie the same on two hosts as before, whatever they were in between.
    ends = read_checkpoint(folder / "checkpoints", STEPS)
    for name, array in read_checkpoint(undisturbed / "checkpoints", STEPS).items():
        np.testing.assert_allclose(ends[name], array, rtol=1e-2, atol=1e-3, err_msg=name)
