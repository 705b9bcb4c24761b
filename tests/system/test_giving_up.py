"""Trouble that no new start can end: one clear error, and a run that can be resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.runs import RayHead, Run
from tests.system.trapped import Trap, set_traps
from tests.system.undisturbed import ARGUMENTS, STEPS, assert_same_end

pytestmark = pytest.mark.system

Start = Callable[..., Run]


def failed(run: Run, code: int) -> str:
    """What a run that must fail says on its standard error."""
    run.process.wait(400)
    errors = run.errors.read_text()
    assert run.process.returncode == code, errors
    assert "Traceback" not in errors
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    return errors


def test_a_step_that_kills_its_host_each_time(
    small_data: Path, ray_head: RayHead, start: Start, tmp_path: Path
) -> None:
    traps = set_traps(tmp_path / "traps.json", Trap("training", (1,), step=7, again=True))
    limits = ("failures.max_restarts=1", "failures.restart_delay=0.1", "checkpoints.every=5")
    run = start(f"data={small_data}", *ARGUMENTS, traps, *limits, head=ray_head)
    errors = failed(run, 1)
    assert "gave up at step 5 after 2 failures in a row without a step further" in errors
    assert "host 1 (pid" in errors
    assert "died while training" in errors
    assert "host 0: " in errors
    assert len(run.events("recovering")) == 1


def test_a_page_that_is_damaged(
    small_data: Path, ray_head: RayHead, start: Start, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    file = data / "train" / "part-0.parquet"
    last = pq.ParquetFile(file).metadata.num_row_groups - 1
    column = pq.ParquetFile(file).metadata.row_group(last).column(0)
    begin = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(file.read_bytes())
    content[begin : begin + 24] = bytes(range(200, 224))
    file.write_bytes(content)
    run = start(f"data={data}", *ARGUMENTS, head=ray_head)
    errors = failed(run, 2)
    assert str(file) in errors
    assert f"row group {last}" in errors
    assert not run.events("recovering")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Puts a disk of 2 MiB under a folder."""
    mounted: list[Path] = []

    def put_under(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small disk can be made here: {done.stderr.strip()}")
        mounted.append(folder)

    put_under(tmp_path / "try")  # before a run is started in vain
    yield put_under
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(
    small_data: Path,
    ray_head: RayHead,
    undisturbed: Path,
    start: Start,
    tiny_disk: Callable[[Path], None],
) -> None:
    """Training goes on without checkpoints; with room, the run is resumed to its end."""
    run = start(f"data={small_data}", *ARGUMENTS, "--resume", head=ray_head)
    run.wait_for(lambda run: run.events("launching"), what="a launch")
    disk = run.folder / "checkpoints"
    tiny_disk(disk)
    with (disk / "ballast").open("wb") as ballast:
        ballast.write(bytes(shutil.disk_usage(disk).free - 40_960))
    errors = failed(run, 1)
    assert "cannot be saved" in errors
    assert "bytes are free" in errors
    (recovering,) = run.events("recovering")
    assert recovering["cause"] == "storage"
    assert "there is no room for a checkpoint" in recovering["reason"]
    assert run.events("checkpoint_postponed")
    assert run.events("lease_done")[-1]["last"] == STEPS

    (disk / "ballast").unlink()
    again = start(f"data={small_data}", *ARGUMENTS, "--resume", head=ray_head)
    again.finish(seconds=400)
    assert_same_end(again, undisturbed)
