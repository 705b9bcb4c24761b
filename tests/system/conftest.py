"""Real runs: the command line in a process of its own, on a small piece of the flights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from workers.data.flights import prepare_flights

ROOT = Path(__file__).parents[2]


@dataclass
class Run:
    """A started training command."""

    folder: Path
    process: subprocess.Popen[str]

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What the run has written to its journal so far."""
        file = self.folder / "events.jsonl"
        if not file.exists():
            return []
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if kind is None or line["kind"] == kind]

    def wait_for(
        self, condition: Callable[[Run], Any], seconds: float = 120.0, what: str = "condition"
    ) -> Any:
        """Poll until the condition gives something true; fails when the run ends before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = condition(self)
            if found:
                return found
            if self.process.poll() is not None:
                output = self.process.communicate()
                pytest.fail(f"the run ended while waiting for {what}: {output}")
            time.sleep(0.1)
        self.process.kill()
        pytest.fail(f"no {what} within {seconds} seconds; events: {self.events()}")

    def finish(self, seconds: float = 240.0) -> dict[str, Any]:
        """Wait for the end, which must be a good one; the run's summary."""
        output, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, output + errors
        return json.loads((self.folder / "summary.json").read_text())

    def losses(self) -> dict[int, float]:
        """Loss by step."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return {line["step"]: line["loss"] for line in found if "split" not in line}


@pytest.fixture(scope="session")
def small_flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 flights to train on and 4,000 to test on."""
    whole = prepare_flights()
    folder = tmp_path_factory.mktemp("small-flights")
    for split, rows in (("train", 20_000), ("test", 4_000)):
        file = sorted((whole / split).glob("*.parquet"))[0]
        (folder / split).mkdir()
        table = pq.read_table(file).slice(0, rows)
        pq.write_table(table, folder / split / "part-0.parquet", row_group_size=2048)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts ``python -m orchestrator train`` with these arguments; ends it after the test."""
    started: list[Run] = []

    def begin(*arguments: str, name: str = "run") -> Run:
        folder = tmp_path / name
        command = [sys.executable, "-m", "orchestrator", "train", "--run-dir", str(folder)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(Run(folder, process))
        return started[-1]

    yield begin
    for run in started:
        if run.process.poll() is None:
            run.process.terminate()
            try:
                run.process.wait(20)
            except subprocess.TimeoutExpired:
                run.process.kill()
                run.process.wait()
