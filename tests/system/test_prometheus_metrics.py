"""A real Ray node serves the figures under the names that the dashboard asks for."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.runs import ROOT, RayHead

pytestmark = pytest.mark.system

RUN = "told-to-prometheus"


def test_a_node_serves_the_figures_of_a_run(ray_head: RayHead) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.metrics_process", RUN, "90"],
        cwd=ROOT,
        env={**os.environ, **ray_head.environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    served = {}
    for line in done.stdout.splitlines():
        name, tags, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()  # pyright: ignore
        told = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        if told["run"] != RUN:  # of other tests
            continue
        served[name, told.get("kind") or told.get("figure")] = float(value)
    assert served["ray_emberay_evaluation", "auc"] == 0.75
    assert served["ray_emberay_seconds_total", "training"] == 2.0
    assert served["ray_emberay_seconds_total", "planning"] == 3.0
    assert served["ray_emberay_examples_total", None] == 640.0
    assert served["ray_emberay_step", None] == 10.0
    assert served["ray_emberay_total_steps", None] == 100.0
