"""TPU chips and libtpu's lock, held by real processes at other places than the real ones."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from workers import chips, mesh
from workers.chips import Machine, chip_holders, unusable_lock, wait_for_chips
from workers.errors import ChipsTaken
from workers.protocol import RunSpec

HOLD = """
import fcntl, os, sys, time
locked, *opened = sys.argv[1:]
if locked != "-":
    file = os.open(locked, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
kept = [open(path) for path in opened]
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def machine(tmp_path):
    (tmp_path / "dev" / "vfio").mkdir(parents=True)
    for name in ("accel0", "vfio/0", "vfio/vfio", "null"):
        (tmp_path / "dev" / name).touch()
    return Machine(lock=tmp_path / "lock", devices=tmp_path / "dev")


@pytest.fixture
def holder():
    """Starts a process that locks a file and opens others."""
    started = []

    def start(lock: Path | None, *devices: Path) -> subprocess.Popen[str]:
        words = [str(lock or "-"), *map(str, devices)]
        command = [sys.executable, "-S", "-c", HOLD, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(autouse=True)
def usual_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("TPU_", "ALLOW_MULTIPLE")):
            monkeypatch.delenv(name)


def test_a_process_with_chips_or_the_lock_is_named(machine, holder):
    assert chip_holders(machine) == ()
    holder(None, machine.devices / "null", machine.devices / "vfio/vfio")  # of no interest
    assert chip_holders(machine) == ()
    chips_alone = holder(None, machine.devices / "vfio/0")
    both = holder(machine.lock, machine.devices / "accel0")
    found = {one.pid: one.holds for one in chip_holders(machine)}
    assert found == {
        chips_alone.pid: (str(machine.devices / "vfio/0"),),
        both.pid: tuple(sorted([str(machine.devices / "accel0"), str(machine.lock)])),
    }
    with pytest.raises(ChipsTaken) as caught:
        wait_for_chips(3, 0.0, machine=machine)
    said = str(caught.value)
    assert said.startswith("host 3 cannot have its TPU chips: ")
    for process in (chips_alone, both):
        assert f"process {process.pid} ({sys.executable} -S -c" in said
    assert f"of user {chips._owner(Path('/proc/self'))}" in said
    assert f"kill {' '.join(map(str, sorted([chips_alone.pid, both.pid])))}" in said


def test_a_process_that_is_ending_is_waited_for(machine, holder):
    process = holder(machine.lock, machine.devices / "accel0")
    said = []

    def say(line):
        said.append(line)
        os.kill(process.pid, signal.SIGKILL)

    wait_for_chips(0, 60.0, machine=machine, say=say)
    assert len(said) == 1
    assert f"host 0 waits for its TPU chips: process {process.pid} " in said[0]


def test_the_lock_file_of_a_dead_process_is_harmless(machine, holder):
    process = holder(machine.lock)
    process.kill()
    process.wait()
    assert machine.lock.exists()
    wait_for_chips(0, 0.0, machine=machine, say=pytest.fail)
    assert machine.lock.exists()  # as libtpu opens it and takes it over


def test_a_lock_file_that_libtpu_could_not_open_is_removed_where_it_can_be(machine):
    machine.lock.symlink_to(machine.lock)  # whoever opens it: even root cannot
    assert "cannot be opened" in unusable_lock(machine)
    said = []
    wait_for_chips(0, 0.0, machine=machine, say=said.append)
    assert not machine.lock.is_symlink()
    assert "nobody held it: it was removed" in said[0]
    machine.lock.mkdir()
    with pytest.raises(ChipsTaken, match=f"sudo rm -r {machine.lock}"):
        wait_for_chips(0, 0.0, machine=machine)


@pytest.mark.parametrize(
    ("variables", "asks"),
    [
        ({}, True),
        ({"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}, False),
        ({"ALLOW_MULTIPLE_LIBTPU_LOAD": "false"}, True),
        ({"TPU_LOAD_LIBRARY": "1"}, False),
        ({"TPU_CHIPS_PER_PROCESS_BOUNDS": "2,2,1"}, True),
        ({"TPU_CHIPS_PER_HOST_BOUNDS": "1,1,1"}, False),
    ],
)
def test_the_lock_counts_where_libtpu_takes_it(machine, holder, monkeypatch, variables, asks):
    process = holder(machine.lock)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert [one.pid for one in chip_holders(machine)] == ([process.pid] if asks else [])


def test_a_holder_that_cannot_be_seen_is_told_of(machine, monkeypatch):
    monkeypatch.setattr(chips, "_lock_holder", lambda path: 0)
    with pytest.raises(ChipsTaken, match=r"a process of another container holds .*lock"):
        wait_for_chips(0, 0.0, machine=machine)


@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: extra 'tpu'")
@pytest.mark.skipif(
    any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*")),
    reason="this machine has chips, which this test must leave alone",
)
def test_libtpu_does_what_is_said_of_it(holder):
    """It looks at the very lock that we look at, and does not say who has it; we do."""
    process = holder(Machine().lock)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env={**environment, "JAX_PLATFORMS": "tpu", "TPU_SKIP_MDS_QUERY": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "libtpu multi-process lockfile" in done.stderr, done.stderr
    assert str(process.pid) not in done.stderr
    (found,) = chip_holders()
    assert (found.pid, found.holds) == (process.pid, (str(Machine().lock),))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while chip_holders():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert unusable_lock() == ""


def test_a_host_on_tpus_asks_before_it_joins(monkeypatch):
    """Nothing of JAX is touched before: the addresses are of nobody."""

    def taken(rank, seconds):
        assert seconds == 5.0
        raise ChipsTaken(f"host {rank}")

    monkeypatch.setattr(mesh, "wait_for_chips", taken)
    run = RunSpec("p:p", {}, "data", "folder", 8, 1, 0, 4, 2, platform="tpu", join_timeout=10.0)
    with pytest.raises(ChipsTaken, match="host 1"):
        mesh.join_mesh("nowhere:1", 1, 2, run)
