"""``predict`` on two real hosts, one of which is killed: the rows and numbers of one host alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import predicting
from orchestrator.predict_settings import predict_settings
from orchestrator.predicting import predict
from tests.runs import ROOT, RayHead
from tests.trained_run import open_here, train_here

pytestmark = pytest.mark.system

ROWS = 3000


def test_two_hosts_one_of_which_is_killed(
    ray_head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = np.random.default_rng(0)
    table = pa.table(
        {
            "key": np.arange(ROWS),
            "item": r.integers(0, 50, ROWS),
            "tags": [[f"t{n}" for n in range(row % 4)] for row in range(ROWS)],
            "price": r.uniform(0, 1, ROWS),
            "label": r.integers(0, 2, ROWS),
        }
    )
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        pq.write_table(table, tmp_path / "data" / split / "a.parquet", row_group_size=256)
    run = tmp_path / "run"
    train_here(
        run,
        (3,),
        program="tests.workers.small_program:program",
        data=str(tmp_path / "data"),
        batch_size=64,
    )
    words = ("split=test", "keep=key", "part_rows=100")
    with (tmp_path / "said").open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "orchestrator", "predict", str(run), *words),
                *(f"out={tmp_path / 'out'}", "hosts=2", "devices_per_host=2"),
            ],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
            | ray_head.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    said = (tmp_path / "said").read_text
    try:
        draft = tmp_path / ".out.predicting"
        deadline = time.monotonic() + 120
        while not list(draft.glob("part-*")):
            assert process.poll() is None and time.monotonic() < deadline, said()
            time.sleep(0.01)
        host = host_of(draft)
        while len(list(draft.glob("part-*"))) < 4:
            assert process.poll() is None and time.monotonic() < deadline, said()
            time.sleep(0.01)
        os.kill(host, signal.SIGKILL)
        process.wait(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said()
    assert "starting anew: host 1" in said() and "3,000 rows predicted after step 3" in said()
    found = pq.read_table(tmp_path / "out")
    assert found["key"].to_pylist() == list(range(ROWS))

    monkeypatch.setattr(predicting, "open_hosts", open_here())
    settings, config = predict_settings(run, (*words, f"out={tmp_path / 'alone'}"))
    alone = predict(run, settings, config, say=lambda line: None)
    expected = pq.read_table(alone.folder)["logit"].to_numpy()
    np.testing.assert_allclose(found["logit"].to_numpy(), expected, rtol=1e-5, atol=1e-6)


def host_of(draft: Path) -> int:
    """The process of host 1: the one whose output goes to its log."""
    log = str(draft / "_work" / "logs" / "launch-0-host-1.log")
    for process in psutil.process_iter():
        try:
            if os.path.realpath(f"/proc/{process.pid}/fd/1") == log:
                return process.pid
        except OSError:
            continue
    raise AssertionError("no host 1")
