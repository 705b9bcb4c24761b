"""Real runs: the command line in a process of its own, on a small piece of the flights."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from workers.data.flights import prepare_flights
from workers.mesh import free_address

ROOT = Path(__file__).parents[1]


@dataclass
class Run:
    """A started training command."""

    folder: Path
    process: subprocess.Popen[bytes]
    output: Path
    """What it prints. A file, as a pipe that nobody reads would stop it when that is full."""
    errors: Path

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
                pytest.fail(f"the run ended while waiting for {what}: {self.said()}")
            time.sleep(0.1)
        self.process.kill()
        pytest.fail(f"no {what} within {seconds} seconds; events: {self.events()}")

    def finish(self, seconds: float = 400.0) -> dict[str, Any]:
        """Wait for the end, which must be a good one; the run's summary."""
        self.process.wait(seconds)
        assert self.process.returncode == 0, self.said()
        return json.loads((self.folder / "summary.json").read_text())

    def said(self) -> str:
        """All it has printed so far."""
        return self.output.read_text() + self.errors.read_text()

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


@dataclass(frozen=True)
class RayHead:
    """A Ray cluster of one node, with token authentication, on ports of its own."""

    dashboard: str
    environment: dict[str, str]
    """What a process must have in its environment to use it."""


@pytest.fixture(scope="session")
def ray_head() -> Iterator[RayHead]:
    """One cluster for many runs: they connect instead of each starting their own."""
    port, dashboard, agent = free_ports(3)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets need a short path
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, **token, "PATH": path, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    environment["RAY_raylet_start_wait_time_s"] = "120"  # on a busy machine it may take longer
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *(f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"),
        # Which takes jobs. On Ray's usual port it might not be alone, and then it gives up.
        f"--dashboard-agent-listen-port={agent}",
        *(f"--temp-dir={folder}", "--disable-usage-stats", "--object-store-memory=200000000"),
    ]
    head = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_until_served(url, seconds=90)
        yield RayHead(url, {**token, "RAY_ADDRESS": f"127.0.0.1:{port}"})
    finally:
        head.terminate()
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def run_processes(module: str, count: int, path: Path, seconds: float) -> None:
    """Run a module once for each rank of a mesh; it gets its rank, an address, a path."""
    address = free_address("127.0.0.1")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(rank), address, str(path)],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(count)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=seconds)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports outside the range that Ray takes its workers' from."""
    ports = []
    for port in random.sample(range(20_000, 30_000), 1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")


def wait_until_served(url: str, seconds: float) -> None:
    """Wait until a server answers, with whatever status."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise TimeoutError(f"nothing answers at {url} after {seconds} seconds")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts ``python -m orchestrator train`` with these arguments; ends it after the test."""
    started: list[Run] = []

    def begin(*arguments: str, name: str = "run", head: RayHead | None = None) -> Run:
        folder = tmp_path / name
        command = [sys.executable, "-m", "orchestrator", "train", "--run-dir", str(folder)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
        if head is not None:
            environment |= head.environment
        output, errors = (tmp_path / f"{name}-{len(started)}.{kind}" for kind in ("out", "err"))
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [*command, *arguments], cwd=ROOT, env=environment, stdout=out, stderr=err
            )
        started.append(Run(folder, process, output, errors))
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
