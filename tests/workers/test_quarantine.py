"""Bad rows keep their place with weight 0, are counted once, and end the run beyond the bound."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import protocol
from workers.data.dataset import check_dataset, open_dataset, read_row_group
from workers.data.examples import Schema
from workers.data.quarantine import BadRow, Quarantine, apply_to_good_rows, quarantined_rows
from workers.data.reader import ExampleReader
from workers.data.transforms import Ids, Number, Tags
from workers.errors import DataError
from workers.host import Host
from workers.planning import check_inputs, make_plan
from workers.program import load_program
from workers.protocol import Assignment, RunSpec

SCHEMA = Schema(
    (("item", Ids("item", 100)), ("tags", Tags("tags", 50, 3))), (Number("price"),), "label"
)


def table_of(rows: int, bad: dict[int, str]) -> pa.Table:
    """Rows, where those in ``bad`` have that column wrong."""
    wrong = {
        column: {row for row, name in bad.items() if name == column}
        for column in ("item", "tags", "price", "label")
    }
    numbers = range(rows)
    return pa.table(
        {
            "item": pa.array(
                [None if n in wrong["item"] else n % 100 for n in numbers], pa.int64()
            ),
            "tags": [["x"] * (9 if n in wrong["tags"] else n % 4) for n in numbers],
            "price": [float("nan") if n in wrong["price"] else n / 2 for n in numbers],
            "label": [7 if n in wrong["label"] else n % 2 for n in numbers],
        }
    )


places = st.dictionaries(
    st.integers(0, 39), st.sampled_from(["item", "tags", "price", "label"]), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(bad=places)
def test_good_rows_are_those_of_clean_data_and_bad_ones_weigh_nothing(bad: dict[int, str]) -> None:
    examples, found = apply_to_good_rows(SCHEMA, table_of(40, bad), most=40)
    clean = SCHEMA.apply(table_of(40, {}))
    good = np.array([row not in bad for row in range(40)])
    assert {row.row: row.column for row in found} == bad
    assert examples.weights.tolist() == good.astype(float).tolist()
    for name, ids in clean.ids.items():
        assert (examples.ids[name][good] == ids[good]).all()
        assert (examples.ids[name][~good] == -1).all()
    assert (examples.dense[good] == clean.dense[good]).all()
    assert (examples.labels[good] == clean.labels[good]).all()
    assert not examples.dense[~good].any() and not examples.labels[~good].any()


def test_no_more_is_looked_for_than_is_allowed() -> None:
    _, found = apply_to_good_rows(SCHEMA, table_of(2000, dict.fromkeys(range(2000), "item")), 5)
    assert len(found) == 6


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three row groups of 20 rows in two files; bad rows at 3, 25, 27 and 59."""
    bad = {3: "item", 25: "price", 27: "label", 59: "tags"}
    table = table_of(60, bad)
    (tmp_path / "logs").mkdir()
    for name, first, last in (("a", 0, 40), ("b", 40, 60)):
        pq.write_table(
            table.slice(first, last - first),
            tmp_path / "logs" / f"{name}.parquet",
            row_group_size=20,
            write_page_checksum=True,
        )
    return tmp_path / "logs"


def test_several_hosts_write_and_count_every_row_once(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data, "train")
    with pytest.raises(DataError, match="row group 0, column 'item': 1 null"):
        check_dataset(dataset, SCHEMA)
    check_dataset(dataset, SCHEMA, values=False)
    folder = tmp_path / "run" / "quarantine"
    for _ in range(2):
        reader = ExampleReader(dataset, SCHEMA, quarantine=Quarantine(folder, 4))
        weights = reader.take(np.arange(60)).weights
        assert np.flatnonzero(weights == 0).tolist() == [3, 25, 27, 59]
    assert quarantined_rows(folder) == 4
    entries = [
        json.loads(line)
        for file in sorted(folder.iterdir())
        for line in file.read_text().splitlines()
    ]
    assert [(e["file"], e["row_group"], e["row"], e["column"]) for e in entries] == [
        (str(data / "a.parquet"), 0, 3, "item"),
        (str(data / "a.parquet"), 1, 5, "price"),
        (str(data / "a.parquet"), 1, 7, "label"),
        (str(data / "b.parquet"), 0, 19, "tags"),
    ]
    assert entries[0]["values"]["item"] is None and entries[0]["values"]["price"] == 1.5
    assert entries[2]["problem"] == "label 7.0 is neither 0 nor 1"


def test_one_row_too_many_is_an_error_over_all_hosts(data: Path, tmp_path: Path) -> None:
    groups = open_dataset(data, "train").row_groups
    one, other = (Quarantine(tmp_path / "quarantine", 3) for _ in range(2))
    read_row_group(groups[0], SCHEMA, one)
    read_row_group(groups[1], SCHEMA, other)
    read_row_group(groups[1], SCHEMA, one)
    with pytest.raises(
        DataError, match=r"4 rows are bad, but quarantine=3 .*b.parquet', row group 0, row 19, col"
    ):
        read_row_group(groups[2], SCHEMA, one)
    with pytest.raises(DataError, match=r"quarantine=1 .*raise quarantine"):
        read_row_group(groups[1], SCHEMA, Quarantine(tmp_path / "other", 1))


def flip(file: Path, row_group: int, column: int) -> None:
    """Flip the bits of the last byte of a column chunk."""
    chunk = pq.read_metadata(file).row_group(row_group).column(column)
    first = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    place = first + chunk.total_compressed_size - 1
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(bytes(content))


def test_a_damaged_page_costs_its_row_group(data: Path, tmp_path: Path) -> None:
    file = data / "a.parquet"
    flip(file, 1, 2)
    groups = open_dataset(data, "train").row_groups
    with pytest.raises(DataError, match=r"a.parquet', row group 1 cannot be read as Parquet"):
        read_row_group(groups[1], SCHEMA)
    with pytest.raises(DataError, match=r"20 rows are bad, but quarantine=19"):
        read_row_group(groups[1], SCHEMA, Quarantine(tmp_path / "small", 19))
    quarantine = Quarantine(tmp_path / "quarantine", 21)
    assert read_row_group(groups[0], SCHEMA, quarantine).weights.sum() == 19
    lost = read_row_group(groups[1], SCHEMA, quarantine)
    assert lost.weights.tolist() == [0] * 20 and (lost.ids["item"] == -1).all()
    assert quarantined_rows(tmp_path / "quarantine") == 21
    entry = json.loads(next((tmp_path / "quarantine").glob("*-1.jsonl")).read_text())
    assert (entry["row"], entry["rows"]) == (None, 20) and "CRC" in entry["problem"]
    file.unlink()
    with pytest.raises(DataError, match="is missing"):
        read_row_group(groups[1], SCHEMA, Quarantine(tmp_path / "quarantine", 100))


def test_a_run_leaves_bad_rows_out_and_moves_no_other(data: Path, tmp_path: Path) -> None:
    """The whole way through a host: rows, steps and weights."""
    told = []
    for name in ("bad", "good"):
        folder = tmp_path / name
        if name == "good":
            pq.write_table(table_of(40, {}), data / "a.parquet", row_group_size=20)
            pq.write_table(table_of(60, {}).slice(40), data / "b.parquet", row_group_size=20)
        run = RunSpec(
            program="tests.workers.small_program:program",
            parameters={"vocabulary": 100, "linear": True},
            data=str(data),
            run_folder=str(folder),
            batch_size=16,
            epochs=2,
            seed=0,
            devices_per_host=jax.device_count(),
            logical_shards=8,
            record_rows=True,
            quarantine=4,
        )
        program = load_program(run.program, run.parameters)
        steps = 2 * check_inputs(program, run, 1).steps_per_epoch
        host = Host(run, Assignment(rank=0, hosts=1, launch=0))
        try:
            host.execute(protocol.Join(host.hello().address))
            host.execute(protocol.Prepare(make_plan(program, run, 1, None, None, 0).to_json()))
            host.execute(protocol.Restore(None))
            lease = protocol.Lease(0, host.plan.hash, 0, steps)
            done = host.execute(protocol.RunLease(lease))
        finally:
            host.close()
        assert isinstance(done, protocol.LeaseDone)
        rows = (folder / "rows" / "host-0.jsonl").read_text()
        told.append((steps, rows, done.metrics.result()["examples"]))
    assert told[0][:2] == told[1][:2]
    assert (told[0][2], told[1][2]) == (2 * 56, 2 * 60)
    assert quarantined_rows(tmp_path / "bad" / "quarantine") == 4
    assert not (tmp_path / "good" / "quarantine").exists()


def test_hosts_that_read_the_same_row_group_may_write_it_down_at_once(tmp_path: Path) -> None:
    """Also those with the same process id, as in containers."""
    quarantine = Quarantine(tmp_path / "quarantine", 10)
    bad = [BadRow(3, "item", "null", values={"item": None})]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(50):
            both = [pool.submit(quarantine.add, "part-0.parquet", 0, bad) for _ in range(2)]
            assert [one.result() for one in both] == [None, None]
    (file,) = quarantine.folder.iterdir()
    assert quarantined_rows(file.parent) == 1
