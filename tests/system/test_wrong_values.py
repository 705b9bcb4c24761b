"""Values and code that no new start mends: refused with their place, or left out as is wanted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.runs import RayHead, Run
from tests.system.trapped import Trap, set_traps
from tests.system.undisturbed import ARGUMENTS, STEPS
from workers.checkpoint import read_checkpoint

pytestmark = pytest.mark.system

ROW = 700
"""Of the training rows, whose number is too large to compute with."""


@pytest.fixture
def wrong_data(small_data: Path, tmp_path: Path) -> Path:
    """The data with one number that makes the loss infinite or worse."""
    folder = tmp_path / "wrong"
    shutil.copytree(small_data, folder)
    file = folder / "train" / "part-0.parquet"
    table = pq.read_table(file)
    price = table["price"].to_numpy().copy()
    price[ROW] = np.float32(3e38)
    place = table.column_names.index("price")
    pq.write_table(table.set_column(place, "price", pa.array(price)), file, row_group_size=128)
    return folder


def error_of(run: Run) -> str:
    """What a run that must fail says, in one error without a traceback."""
    run.process.wait(400)
    said = run.errors.read_text()
    assert run.process.returncode == 1, said
    assert "Traceback" not in said
    return said


def steps_of_the_row(run: Run) -> set[int]:
    lines = [
        json.loads(line)
        for rank in (0, 1)
        for line in (run.folder / "rows" / f"host-{rank}.jsonl").read_text().splitlines()
    ]
    return {line["step"] for line in lines if ROW in line["rows"]}


def test_other_code_and_losses_that_are_not_finite(
    wrong_data: Path, ray_head: RayHead, start: Callable[..., Run], tmp_path: Path
) -> None:
    """A host with other code is refused; then each policy for a loss that is not finite."""
    traps = set_traps(tmp_path / "traps.json", Trap("planning", (1,)))
    arguments = (f"data={wrong_data}", *ARGUMENTS, "record_rows=true")
    skips = start(*arguments, "failures.nan=skip", name="skips", head=ray_head)
    run = start(*arguments, traps, "--resume", head=ray_head)
    said = error_of(run)
    assert "host 1" in said
    assert "plan" in said
    kinds = [event["kind"] for event in run.events()]
    assert "lease_done" not in kinds
    assert "recovering" not in kinds

    assert skips.finish(seconds=400)["restarts"] == 0
    skipped = skips.events("step_skipped")
    left_out = {event["step"] for event in skipped}
    assert left_out == steps_of_the_row(skips) & set(range(STEPS))
    assert {event["policy"] for event in skipped} == {"skip"}

    set_traps(tmp_path / "traps.json")
    run = start(*arguments, traps, "--resume", head=ray_head)
    said = error_of(run)
    first = min(left_out)
    assert f"step {first}: " in said
    assert "table 'item'" in said
    assert "failures.nan" in said
    assert not run.events("recovering")
    # The broken state is never saved.
    saved = [int(path.name) for path in (run.folder / "checkpoints").iterdir()]
    assert max(saved, default=0) <= first

    again = start(*arguments, traps, "--resume", "failures.nan=rollback", head=ray_head)
    assert again.finish(seconds=400)["restarts"] == len(left_out)
    skipped = again.events("step_skipped")
    assert {event["step"] for event in skipped} == left_out
    assert {event["policy"] for event in skipped} == {"rollback"}
    ours = read_checkpoint(again.folder / "checkpoints", STEPS)
    theirs = read_checkpoint(skips.folder / "checkpoints", STEPS)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert np.isfinite(array).all(), name
        assert np.array_equal(array, theirs[name]), name
