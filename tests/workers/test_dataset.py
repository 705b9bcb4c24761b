"""Parquet to examples: every row where it belongs, every bad value named with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.data.dataset import (
    check_dataset,
    has_split,
    open_dataset,
    reading,
)
from workers.data.examples import Schema
from workers.data.reader import ExampleReader
from workers.data.transforms import Hashed, Ids, Number, Tags
from workers.errors import DataError

SCHEMA = Schema(
    (("item", Ids("item", 1000)), ("tags", Tags("tags", 50, 3)), ("shop", Hashed(("shop",), 9))),
    (Number("price"),),
    "label",
)


def rows(first: int, last: int) -> pa.Table:
    numbers = list(range(first, last))
    return pa.table(
        {
            "item": pa.array(numbers, pa.int64()),
            "tags": [[f"t{n % 7}"] * (n % 4) for n in numbers],
            "shop": [f"shop {n % 5}" for n in numbers],
            "price": pa.array([n / 2 for n in numbers], pa.float32()),
            "label": pa.array([n % 3 == 0 for n in numbers]),
            "unused": [None] * len(numbers),
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    pq.write_table(rows(0, 25), tmp_path / "train" / "a.parquet", row_group_size=10)
    pq.write_table(rows(25, 60), tmp_path / "train" / "b.parquet", row_group_size=10)
    pq.write_table(rows(60, 70), tmp_path / "test" / "a.parquet")
    return tmp_path


def test_rows_are_counted_over_files_and_row_groups(folder: Path) -> None:
    dataset = open_dataset(folder, "train")
    assert dataset.rows == 60
    assert [group.rows for group in dataset.row_groups] == [10, 10, 5, 10, 10, 10, 5]
    assert [group.first_row for group in dataset.row_groups] == [0, 10, 20, 25, 35, 45, 55]
    assert open_dataset(folder, "test").rows == 10
    assert not has_split(folder, "validation")
    check_dataset(dataset, SCHEMA)


@pytest.mark.parametrize("cache_bytes", [1, 1 << 20])
def test_examples_are_taken_by_row_id_in_any_order(folder: Path, cache_bytes: int) -> None:
    reader = ExampleReader(open_dataset(folder, "train"), SCHEMA, cache_bytes)
    wanted = np.array([59, -1, 0, 24, 25, 0, 37])
    examples = reader.take(wanted)
    real = wanted >= 0
    assert examples.ids["item"].ravel().tolist() == wanted.tolist()
    assert (examples.ids["tags"] >= 0).sum(axis=1).tolist() == np.where(
        real, wanted % 4, 0
    ).tolist()
    assert examples.dense[real, 0].tolist() == (wanted[real] / 2).tolist()
    assert examples.labels[real].tolist() == (wanted[real] % 3 == 0).tolist()
    assert examples.weights.tolist() == real.astype(float).tolist()


def test_a_single_file_is_the_train_split(folder: Path) -> None:
    file = folder / "train" / "a.parquet"
    assert open_dataset(file, "train").rows == 25
    assert not has_split(file, "test")


def broken(folder: Path, **columns: pa.Array) -> Path:
    table = rows(0, 12)
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    file = folder / "broken.parquet"
    pq.write_table(table, file, row_group_size=6)
    return file


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("item", pa.array([None if n == 8 else n for n in range(12)]), "1 null"),
        ("item", pa.array([1000 if n == 8 else n for n in range(12)]), "id 1000 is outside"),
        ("item", pa.array([-3 if n == 8 else n for n in range(12)]), "id -3 is outside"),
    ],
)
def test_statistics_alone_tell_of_nulls_and_ids(
    tmp_path: Path, column: str, values: pa.Array, problem: str
) -> None:
    dataset = open_dataset(broken(tmp_path, **{column: values}), "train")
    with pytest.raises(DataError, match=rf"broken.parquet.*row group 1.*'item'.*{problem}"):
        check_dataset(dataset, SCHEMA)


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("item", pa.array([1000 if n == 8 else n for n in range(12)]), "row 2, .*id 1000"),
        ("shop", pa.array([None if n == 8 else "a" for n in range(12)]), "row 2, .*null"),
        ("label", pa.array([7 if n == 8 else 0 for n in range(12)]), "row 2, .*neither 0 nor 1"),
        ("price", pa.array([float("inf") if n == 8 else 0 for n in range(12)]), "row 2, .*inf"),
        ("tags", pa.array([["x"] * n for n in range(12)]), "row 0, .*valency is 3"),
    ],
)
def test_bad_values_are_named_with_file_row_group_row_and_column(
    tmp_path: Path, column: str, values: pa.Array, problem: str
) -> None:
    reader = ExampleReader(open_dataset(broken(tmp_path, **{column: values}), "train"), SCHEMA)
    with pytest.raises(DataError, match=rf"broken.parquet', row group 1, {problem}") as caught:
        reader.take(np.arange(6, 12))
    assert f"column '{column}'" in str(caught.value)


def test_missing_wrong_and_empty_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="no Parquet files"):
        open_dataset(tmp_path, "train")
    (tmp_path / "junk.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"junk.parquet' cannot be read as Parquet"):
        open_dataset(tmp_path, "train")
    pq.write_table(rows(0, 0), tmp_path / "junk.parquet")
    with pytest.raises(DataError, match="has no rows"):
        open_dataset(tmp_path, "train")
    pq.write_table(rows(0, 3), tmp_path / "a.parquet")
    pq.write_table(rows(0, 3).drop_columns(["price"]), tmp_path / "b.parquet")
    (tmp_path / "junk.parquet").unlink()
    with pytest.raises(DataError, match=r"b.parquet' has other columns.*'price' is missing"):
        open_dataset(tmp_path, "train")


def test_what_writers_leave_beside_the_data_is_passed_over(folder: Path) -> None:
    train = folder / "train"
    pq.write_table(rows(0, 5), train / "_metadata.parquet")
    (train / "_temporary").mkdir()
    pq.write_table(rows(0, 5), train / "_temporary" / "c.parquet")
    (train / ".hidden.parquet").write_bytes(b"partial")
    empty = rows(0, 0).set_column(0, "item", pa.array([], pa.null()))
    pq.write_table(empty, train / "c.parquet")
    (train / "part.parquet").mkdir()
    pq.write_table(rows(60, 65), train / "part.parquet" / "d.parquet")
    dataset = open_dataset(folder, "train")
    assert dataset.rows == 65
    assert ExampleReader(dataset, SCHEMA).take(np.array([64])).ids["item"].item() == 64


def test_a_test_split_alone_is_refused(folder: Path) -> None:
    (folder / "train").rename(folder / "training")
    with pytest.raises(DataError, match="has a folder 'test' but none named 'train'"):
        open_dataset(folder, "train")


def test_only_columns_in_use_must_agree(tmp_path: Path) -> None:
    pq.write_table(rows(0, 3), tmp_path / "a.parquet")
    other = rows(3, 6).set_column(5, "unused", pa.array([1, 2, 3]))
    pq.write_table(other, tmp_path / "b.parquet")
    assert open_dataset(tmp_path, "train", SCHEMA.columns).rows == 6
    with pytest.raises(DataError, match="'unused' is int64, not null"):
        open_dataset(tmp_path, "train")


def test_errors_of_the_storage_are_not_the_datas_fault(folder: Path) -> None:
    with pytest.raises(OSError, match="stale handle"), reading("file 'a'"):
        raise OSError(116, "stale handle")
    with pytest.raises(DataError, match="is missing"), reading("file 'a'"):
        raise FileNotFoundError(2, "gone")
    (folder / "train" / "a.parquet").unlink()
    reader = ExampleReader(open_dataset(folder, "train"), SCHEMA)
    (folder / "train" / "b.parquet").unlink()
    with pytest.raises(DataError, match=r"b.parquet', row group 0 is missing"):
        reader.take(np.array([0]))


def test_missing_and_mistyped_columns_are_refused(tmp_path: Path) -> None:
    pq.write_table(rows(0, 3).drop_columns(["item"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"feature 'item': column 'item' is missing"):
        check_dataset(open_dataset(tmp_path, "train"), SCHEMA)
    table = rows(0, 3)
    table = table.set_column(0, "item", pa.array(["a", "b", "c"]))
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="'item' has type string, but integers are needed"):
        check_dataset(open_dataset(tmp_path, "train"), SCHEMA)


def test_a_damaged_page_is_named(folder: Path) -> None:
    file = folder / "train" / "b.parquet"
    content = bytearray(file.read_bytes())
    content[40:400] = b"\xff" * 360
    file.write_bytes(bytes(content))
    reader = ExampleReader(open_dataset(folder, "train"), SCHEMA)
    with pytest.raises(DataError, match=r"b.parquet', row group 0 cannot be read"):
        reader.take(np.arange(25, 35))
    assert reader.take(np.arange(25)).weights.sum() == 25
