"""``ray job submit`` of a program that lies in the submitted folder, to a cluster of two nodes."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.doctor.facts import DRIVER
from tests.runs import ROOT, RayHead, free_ports
from workers.checkpoint import committed_steps

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


@pytest.fixture(scope="module")
def second_node(ray_head: RayHead) -> Iterator[str]:
    """Another node of the head's cluster, on ports of its own; its id."""
    (before,) = wait_for(lambda: living_nodes(ray_head), 120, "first node")
    (agent,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *("--address", ray_head.environment["RAY_ADDRESS"], "--num-cpus=2"),
            *(f"--temp-dir={folder}", f"--dashboard-agent-listen-port={agent}"),
            # Any: the head's node gives out Ray's usual ones.
            *("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=80000000"),
        ]
        # A busy machine may take longer than Ray would wait.
        environment = in_cluster(ray_head) | {"RAY_raylet_start_wait_time_s": "120"}
        environment["MEGASCALE_NUM_SLICES"] = "2"  # as if left from something else
        node = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
        )
        try:
            found = wait_for(lambda: set(living_nodes(ray_head)) - {before}, 150, "second node")
            yield found.pop()
        finally:
            node.terminate()
            try:
                node.wait(45)  # it waits itself for what still runs there
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait(10)
    # Others use the cluster later, as they know it.
    wait_for(lambda: living_nodes(ray_head) == [before], 60, "the second node's end")


def in_cluster(head: RayHead) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, **head.environment, "PATH": path, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    pytest.fail(f"no {what} within {seconds} seconds")


def asked(head: RayHead, path: str, method: str = "GET") -> Any:
    """What the head's dashboard answers to somebody with the token."""
    token = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(head.dashboard + path, headers=token, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def living_nodes(head: RayHead) -> list[str]:
    """Ids of the nodes that are alive; none while the dashboard is not ready to tell."""
    try:
        nodes = asked(head, "/api/v0/nodes")["data"]["result"]["result"]
    except OSError:
        return []
    return sorted(node["node_id"] for node in nodes if node["state"] == "ALIVE")


def job(head: RayHead, name: str) -> dict[str, Any]:
    return asked(head, f"/api/jobs/{name}")


def ray_job(head: RayHead, *words: str) -> subprocess.CompletedProcess[str]:
    """``ray job`` as a user outside of the cluster calls it."""
    environment = {**os.environ, **head.environment}
    del environment["RAY_ADDRESS"]  # of the cluster; jobs go to the dashboard's
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", words[0]]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            [*command, "--address", head.dashboard, *words[1:]],
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


def page_commands() -> list[list[str]]:
    """The ``ray job`` commands of docs/jobs.md, in words, and the option that it speaks of."""
    lines = [line.strip() for line in (ROOT / "docs" / "jobs.md").read_text().splitlines()]
    wanted = ("ray job ", "--runtime-env-json ")
    return [shlex.split(line) for line in lines if line.startswith(wanted)]


def filled_in(words: list[str], name: str, folder: Path, run: Path) -> list[str]:
    """A command with what the page has examples for; without ``ray job``."""
    here = {"first": name, ".": str(folder), "/shared/runs/first": str(run)}
    return [here.get(word, word) for word in words[2:]]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    file = run / "events.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in found if event["kind"] == kind]


@pytest.fixture
def folder(small_flights: Path, tmp_path: Path) -> Path:
    """What is submitted."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "submitted_program.py").write_text(PROGRAM)
    (folder / "run.yaml").write_text(
        f"program: submitted_program:program\nparameters: {{width: 8}}\ndata: {small_flights}\n"
        "batch_size: 512\nepochs: 1000\nevaluation: {every_epochs: 0}\n"
    )
    return folder


@pytest.fixture
def name(ray_head: RayHead) -> Iterator[str]:
    """An id for a job, which is stopped after the test if it still runs."""
    name = f"first-{secrets.token_hex(4)}"
    yield name
    with suppress(OSError):  # there may be no such job
        asked(ray_head, f"/api/jobs/{name}/stop", "POST")


def test_the_doctor_looks_at_all_nodes(
    folder: Path, ray_head: RayHead, second_node: str, tmp_path: Path
) -> None:
    command = [
        "-m",
        "orchestrator",
        "doctor",
        "run.yaml",
        "--run-dir",
        str(tmp_path / "run"),
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, *command],
        env=in_cluster(ray_head),
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    nodes = {name[-7:-1]: answer for name, answer in told["nodes"].items() if name != DRIVER}
    assert set(nodes) == {node[:6] for node in living_nodes(ray_head)}
    assert all(answer["facts"]["program"] for answer in told["nodes"].values())
    assert all(answer["facts"]["folder"]["shared"] for answer in told["nodes"].values())
    assert len({str(answer["facts"]["versions"]) for answer in told["nodes"].values()}) == 1
    (stale,) = [one for one in told["findings"] if one["severity"] == "note"]
    assert stale["what"].startswith("MEGASCALE_NUM_SLICES is set")
    assert [name[-7:-1] for name in stale["nodes"]] == [second_node[:6]]
    wrong = [one for one in told["findings"] if one["severity"] != "note"]
    # A machine cannot help some things, such as little shared memory; these must be well. (The
    # source files may differ, where somebody edits them meanwhile.)
    checks = ("answers", "program", "ports", "clock", "run folder", "data", "room")
    assert not [one for one in wrong if one["check"] in checks]
    assert done.returncode == (1 if wrong else 0)


def test_a_submitted_program_is_stopped_and_goes_on_when_it_is_submitted_again(
    folder: Path, ray_head: RayHead, second_node: str, name: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    submit, status, logs, stop, waits, again = page_commands()
    words = filled_in(submit, name, folder, run)
    end = words.index("--")
    done = ray_job(ray_head, *words[:end], *waits, *words[end:])
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: events(run, "lease_done"), 180, f"step of {job(ray_head, name)}")
    nodes = {event["node"] for event in events(run, "host_started")}
    assert nodes == set(living_nodes(ray_head))
    assert second_node in nodes
    assert "RUNNING" in ray_job(ray_head, *filled_in(status, name, folder, run)).stdout

    stopped = ray_job(ray_head, *filled_in(stop, name, folder, run))
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert job(ray_head, name)["status"] == "STOPPED"
    summary = json.loads((run / "summary.json").read_text())
    held = summary["steps"]
    assert (summary["status"], summary["program"]) == ("interrupted", "submitted")
    assert held > 0
    assert max(committed_steps(run / "checkpoints")) == held
    said = ray_job(ray_head, *filled_in(logs, name, folder, run)).stdout
    assert "submitted: " in said
    assert "saving and leaving" in said

    done = ray_job(ray_head, *filled_in(again, name, folder, run), f"max_steps={held + 100}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert f"restored the checkpoint of step {held}" in done.stdout
    # The second time, nothing was said of how long it may take to save.
    assert "set RAY_JOB_STOP_WAIT_TIME_S=30" in done.stdout
    assert "RAY_JOB_STOP_WAIT_TIME_S" not in said
    told = [event["check"] for event in events(run, "diagnosed")]
    assert "job" in told
    assert not {"program", "clock", "run folder"} & set(told)
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "split" not in line] == list(range(held + 100))


def test_a_job_with_bad_input_fails_with_one_clear_line_and_its_exit_code(
    ray_head: RayHead, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    name = f"bad-{secrets.token_hex(4)}"
    options = ("--submission-id", name, "--working-dir", str(folder))
    train = ("python", "-m", "orchestrator", "train", "hots=3", "--run-dir", str(tmp_path / "run"))
    done = ray_job(ray_head, "submit", *options, "--", *train)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "error: unknown key 'hots' (did you mean 'hosts'?)" in output
    assert not (tmp_path / "run").exists()
    told = job(ray_head, name)
    assert (told["status"], told["driver_exit_code"]) == ("FAILED", 2)


def test_nobody_gets_in_without_the_token(ray_head: RayHead) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{ray_head.dashboard}/api/jobs/", timeout=30)
