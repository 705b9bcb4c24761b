"""The driver's index of the data: the same as the files say, without asking each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.data import dataset, index, tables
from workers.data.dataset import Dataset
from workers.data.holdout import Holdout
from workers.data.index import INDEX, LOOKED_INTO, check_files, read_index, write_index
from workers.data.sources import has_split, open_dataset
from workers.data.tables import read_contents
from workers.errors import DataError
from workers.protocol import Assignment, RunSpec
from workers.run_data import RunData

ROWS = 90


def write(folder: Path, files: int = 3, rows: int = ROWS) -> Path:
    """Some files of several row groups, and an empty one."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        at = np.arange(number * rows, (number + 1) * rows)
        table = pa.table({"at": at, "user": at % 7, "label": at % 2})
        pq.write_table(table, folder / f"part-{number:03}.parquet", row_group_size=40)
    pq.write_table(table.slice(0, 0), folder / "zero.parquet")
    return folder


def opened(data: str, holdout: Holdout | None = None) -> dict[str, Dataset]:
    splits = ["train", "test"] if has_split(data, "test", holdout) else ["train"]
    return {split: open_dataset(data, split, None, holdout) for split in splits}


def folders(root: Path) -> str:
    write(root / "train")
    write(root / "test", 1)
    return str(root)


def one_file(root: Path) -> str:
    return str(write(root) / "part-000.parquet")


def glob(root: Path) -> str:
    write(root / "a")
    write(root / "b")
    return f"{root}/[ab]/part-*.parquet"


def per_split(root: Path) -> str:
    folders(root)
    return f"{root}/{{split}}/*.parquet"


def partitions(root: Path) -> str:
    write(root / "day=1" / "land=de")
    write(root / "day=2" / "land=__HIVE_DEFAULT_PARTITION__")
    return str(root)


def address(root: Path) -> str:
    return f"file://{write(root)}"


def many(root: Path) -> str:
    return str(write(root))


@pytest.mark.parametrize(
    ("lay_out", "holdout"),
    [
        (folders, None),
        (one_file, None),
        (glob, None),
        (per_split, None),
        (partitions, None),
        (address, None),
        (many, Holdout("random", share=0.3, seed=5)),
        (many, Holdout("time", "at", start=100)),
        (many, Holdout("column", "user", share=0.5)),
    ],
)
def test_it_says_what_the_files_say(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lay_out: Callable[[Path], str],
    holdout: Holdout | None,
) -> None:
    data = opened(lay_out(tmp_path / "data"), holdout)
    told = write_index(tmp_path, data)
    asked: list[str] = []
    monkeypatch.setattr(tables, "filesystem_of", asked.append)
    read = read_index(tmp_path, told, holdout)
    assert read == data
    assert read is not None
    assert [list(split.row_groups) for split in read.values()] == [
        list(split.row_groups) for split in data.values()
    ]
    assert asked == [], "no file was looked into"


def test_no_address_is_written(tmp_path: Path) -> None:
    data = opened(str(write(tmp_path / "data")))
    secret = "s3://key:secret@bucket"
    groups = tuple(
        dataclasses.replace(group, file=f"{secret}/data/{group.name}?region=x")
        for group in data["train"].row_groups
    )
    data["train"] = dataclasses.replace(data["train"], row_groups=groups, path=f"{secret}/data")
    told = write_index(tmp_path, data)
    assert read_index(tmp_path, told) == data
    assert b"secret" not in (tmp_path / INDEX).read_bytes()
    assert "secret" not in repr(told)


def test_another_file_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = opened(str(write(tmp_path / "data")))
    told = write_index(tmp_path, data)
    content = bytearray((tmp_path / INDEX).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / INDEX).write_bytes(content)
    assert read_index(tmp_path, told) is None
    assert "not the index that the driver wrote" in caplog.text
    (tmp_path / INDEX).unlink()
    assert read_index(tmp_path, told) is None
    assert "cannot be read" in caplog.text
    assert read_index(tmp_path, None) is None


@pytest.mark.parametrize("holdout", [None, Holdout("random", share=0.3)])
def test_a_host_with_other_files_is_told(tmp_path: Path, holdout: Holdout | None) -> None:
    folder = write(tmp_path / "data")
    data = opened(str(folder), holdout)
    check_files(data, 0, 2)
    file = folder / "part-001.parquet"
    pq.write_table(pq.read_table(file).slice(0, 50), file, row_group_size=40)
    with pytest.raises(DataError, match=r"host 1 sees other data .*part-001\.parquet.*40, 10"):
        check_files(data, 1, 2)
    file.unlink()
    with pytest.raises(DataError, match=r"part-001\.parquet' is missing"):
        check_files(data, 1, 2)


@pytest.mark.parametrize(("files", "hosts"), [(10_000, 1024), (5, 3), (160, 10), (16, 1), (1, 2)])
def test_hosts_look_into_few_files_each_and_into_all_together(files: int, hosts: int) -> None:
    names = [f"part-{number}" for number in range(files)]
    each = [index.files_of_host(names, host, hosts) for host in range(hosts)]
    assert max(map(len, each)) <= LOOKED_INTO
    assert {name for own in each for name in own} == set(names)


def test_data_that_is_made_up_has_none(tmp_path: Path) -> None:
    data = opened("synthetic:rows=1000")
    assert write_index(tmp_path, data) is None
    assert not (tmp_path / INDEX).exists()


def test_a_host_opens_no_data_that_the_driver_has_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "data", files=40, rows=5)
    run = RunSpec("p", {}, str(folder), str(tmp_path), 8, 1, 0, 1)
    data = opened(str(folder))
    indexed = dataclasses.replace(run, data_index=write_index(tmp_path, data))
    looked: list[str] = []
    for module in (dataset, index):
        monkeypatch.setattr(
            module, "read_contents", lambda file: looked.append(file) or read_contents(file)
        )
    for place, footers in ((Assignment(2, 3, 0), LOOKED_INTO), (None, 0)):
        looked.clear()
        of_host = RunData(indexed, ["at", "label"], place)
        assert of_host.splits == ("train",)
        assert of_host.open("train") == data["train"]
        assert len(looked) == footers
    plain = RunData(run, ["at", "label"], Assignment(2, 3, 0))
    assert plain.open("train") == data["train"]
    assert len(looked) == 41, "all files, as there is no index"
