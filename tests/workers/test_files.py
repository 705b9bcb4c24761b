"""Which files are data: folders, partitions, globs, addresses; Parquet and Arrow files alike."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from workers.data import files
from workers.data.convert import Settings, convert
from workers.data.dataset import check_dataset, has_split, open_dataset, read_row_group
from workers.data.examples import Examples, Schema
from workers.data.files import absolute_data, filesystem_of
from workers.data.fitting import fit_vocabulary
from workers.data.order import RowOrder
from workers.data.reader import ExampleReader
from workers.data.transforms import Hashed, Ids, Number
from workers.errors import DataError

SCHEMA = Schema(
    (("item", Ids("item", 1000)), ("shop", Hashed(("shop",), 9))), (Number("price"),), "label"
)


def rows(first: int, last: int) -> pa.Table:
    numbers = list(range(first, last))
    return pa.table(
        {
            "item": pa.array(numbers, pa.int64()),
            "shop": [f"shop {n % 5}" for n in numbers],
            "price": pa.array([n / 2 for n in numbers], pa.float32()),
            "label": pa.array([n % 3 == 0 for n in numbers]),
        }
    )


def write(file: Path, table: pa.Table, rows_at_once: int = 10) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(table, file, row_group_size=rows_at_once)
        return
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_at_once)


def items(data: str | Path, split: str = "train") -> list[int]:
    dataset = open_dataset(data, split, SCHEMA.columns)
    check_dataset(dataset, SCHEMA)
    return ExampleReader(dataset, SCHEMA).take(np.arange(dataset.rows)).ids["item"].ravel().tolist()


@pytest.fixture
def partitioned(tmp_path: Path) -> Path:
    """Rows 0 to 39 in two partitions of two files each."""
    for day in (9, 10):
        for part in range(2):
            first = (day - 9) * 20 + part * 10
            write(
                tmp_path / "logs" / f"day={day}" / "land=a%20b" / f"part-{part}.parquet",
                rows(first, first + 10),
            )
    return tmp_path / "logs"


def test_hive_partitions_become_columns(partitioned: Path) -> None:
    schema = Schema((("day", Ids("day", 11)), ("land", Hashed(("land",), 97))), (), "label")
    dataset = open_dataset(partitioned, "train", schema.columns)
    assert dataset.schema.field("day").type == pa.int64()
    assert dataset.schema.field("land").type == pa.string()
    check_dataset(dataset, schema)
    taken = ExampleReader(dataset, schema).take(np.arange(40))
    # Names are sorted as text: day=10 comes before day=9.
    assert taken.ids["day"].ravel().tolist() == [10] * 20 + [9] * 20
    wanted = Hashed(("land",), 97).apply(pa.table({"land": ["a b"]}))
    assert (taken.ids["land"] == wanted).all()
    assert list(fit_vocabulary(dataset, "day").values.to_pylist()) == [9, 10]


def test_partitions_null_text_columns_of_the_file_and_uneven_levels(tmp_path: Path) -> None:
    write(tmp_path / "a" / "code=7" / "x.parquet", rows(0, 3))
    write(tmp_path / "a" / "code=b" / "x.parquet", rows(3, 6))
    write(tmp_path / "a" / "code=__HIVE_DEFAULT_PARTITION__" / "x.parquet", rows(6, 9))
    dataset = open_dataset(tmp_path / "a", "train")
    assert [dict(g.constants)["code"].as_py() for g in dataset.row_groups] == ["7", None, "b"]
    # A column of the file itself is more than its folder's name.
    write(tmp_path / "b" / "item=5" / "x.parquet", rows(0, 3))
    assert items(tmp_path / "b") == [0, 1, 2]
    write(tmp_path / "b" / "y.parquet", rows(0, 3))
    with pytest.raises(DataError, match=r"y.parquet' lies in partitions \[\].*\['item'\]"):
        open_dataset(tmp_path / "b", "train")


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("logs/*/*/part-0.parquet", [*range(20, 30), *range(10)]),
        ("logs/day=9/**", range(20)),
        ("logs/**/part-[!1].parquet", [*range(20, 30), *range(10)]),
        ("logs/day=?/**/*.parquet", range(20)),
        ("**/part-0.parquet", [*range(20, 30), *range(10)]),
        ("logs/day=1*/land=*/part-1.parquet", range(30, 40)),
    ],
)
def test_globs(
    partitioned: Path, pattern: str, wanted: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert items(f"{partitioned.parent}/{pattern}") == list(wanted)
    assert items(f"file://{partitioned.parent}/{pattern}") == list(wanted)
    assert not has_split(f"{partitioned.parent}/{pattern}", "test")
    monkeypatch.chdir(partitioned.parent)
    assert items(pattern) == list(wanted)
    assert absolute_data(pattern) == f"{partitioned.parent}/{pattern}"


def test_a_glob_without_files_and_a_name_with_wildcards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Parquet files for the 'train' split"):
        open_dataset(tmp_path / "*.parquet", "train")
    with pytest.raises(DataError, match="no Parquet files for the 'train' split"):
        open_dataset(tmp_path / "nowhere" / "*.parquet", "train")
    write(tmp_path / "odd[1].parquet", rows(0, 3))
    write(tmp_path / "odd1.parquet", rows(3, 6))
    assert items(tmp_path / "odd[1].parquet") == [0, 1, 2]


def test_a_pattern_per_split(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        write(tmp_path / "kind" / f"{split}-a.parquet", rows(number * 3, number * 3 + 3))
    data = f"{tmp_path}/kind/{{split}}-*.parquet"
    assert items(data) == [0, 1, 2] and items(data, "test") == [3, 4, 5]
    assert items(f"{tmp_path}/kind/{{split}}-a.parquet", "test") == [3, 4, 5]
    (tmp_path / "kind" / "test-a.parquet").unlink()
    assert not has_split(data, "test")
    assert not has_split(f"{tmp_path}/kind/{{split}}-a.parquet", "test")
    assert absolute_data(data) == data


@pytest.mark.parametrize("ending", ["arrow", "feather", "ipc"])
def test_arrow_files(tmp_path: Path, ending: str) -> None:
    write(tmp_path / "logs" / "train" / f"a.{ending}", rows(0, 25))
    write(tmp_path / "logs" / "train" / "b.parquet", rows(25, 40))
    dataset = open_dataset(tmp_path / "logs", "train")
    assert [group.rows for group in dataset.row_groups] == [10, 10, 5, 10, 5]
    assert items(tmp_path / "logs") == list(range(40))
    assert items(tmp_path / "logs" / "train" / f"a.{ending}") == list(range(25))


def test_bad_arrow_files_are_named(tmp_path: Path) -> None:
    table = rows(0, 20).set_column(0, "item", pa.array([1000 if n == 13 else n for n in range(20)]))
    write(tmp_path / "a.arrow", table)
    dataset = open_dataset(tmp_path, "train")
    with pytest.raises(DataError, match=r"a.arrow', row group 1, row 3, column 'item': id 1000"):
        read_row_group(dataset.row_groups[1], SCHEMA)
    content = (tmp_path / "a.arrow").read_bytes()
    place = content.rindex(b"shop 0shop 1")
    (tmp_path / "a.arrow").write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
    with pytest.raises(DataError, match=r"a.arrow', row group 1 cannot be read as Arrow IPC.*UTF8"):
        read_row_group(dataset.row_groups[1], SCHEMA)
    (tmp_path / "a.arrow").write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"file '.*a.arrow' cannot be read as Arrow IPC"):
        open_dataset(tmp_path, "train")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for what is stored at s3://."""
    stored = tmp_path / "stored"
    store = pyarrow.fs.SubTreeFileSystem(str(stored), pyarrow.fs.LocalFileSystem())
    monkeypatch.setattr(files, "_store", lambda scheme, bucket, options: store)
    return stored / "bucket"


def test_addresses(bucket: Path) -> None:
    write(bucket / "logs" / "train" / "day=1" / "a.parquet", rows(0, 12))
    write(bucket / "logs" / "train" / "day=2" / "b.arrow", rows(12, 20))
    write(bucket / "logs" / "test" / "day=3" / "c.parquet", rows(20, 25))
    assert items("s3://bucket/logs") == list(range(20))
    assert items("s3://bucket/logs/?region=x", "test") == list(range(20, 25))
    assert items("s3://bucket/logs/train/day=1/a.parquet") == list(range(12))
    assert items("s3://bucket/logs/*/day=[23]/*.*?scheme=http&region=x") == [
        *range(20, 25),
        *range(12, 20),
    ]
    assert items("s3://bucket/logs/{split}/**", "test") == list(range(20, 25))
    dataset = open_dataset("s3://bucket/logs", "train")
    assert dataset.row_groups[0].file == "s3://bucket/logs/train/day=1/a.parquet"
    assert dataset.row_groups[0].name == "train/day=1/a.parquet"
    with pytest.raises(DataError, match="'s3://bucket/none' does not exist"):
        open_dataset("s3://bucket/none", "train")
    (bucket / "logs" / "train" / "day=1" / "a.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"'s3://bucket/logs/train/day=1/a.parquet' cannot be read"):
        open_dataset("s3://bucket/logs", "train")


def test_real_stores_are_opened_without_being_asked_anything() -> None:
    store, path = filesystem_of("s3://bucket/a/b.parquet?region=us-east-1&scheme=http")
    assert isinstance(store, pyarrow.fs.S3FileSystem) and path == "bucket/a/b.parquet"
    store, path = filesystem_of("gs://anonymous@bucket/a")
    assert isinstance(store, pyarrow.fs.GcsFileSystem) and path == "bucket/a"
    with pytest.raises(DataError, match=r"addresses begin with s3://, gs:// or file://"):
        filesystem_of("ftp://bucket/a")
    assert absolute_data("s3://bucket/logs/*.parquet") == "s3://bucket/logs/*.parquet"


def test_a_reader_of_a_large_converted_file_stays_within_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cache, one row group more, what each thread decodes, and what is taken: nothing else."""
    source = tmp_path / "big.csv"
    count, rows_at_once, threads = 200_000, 2_000, 2
    with source.open("w") as out:
        out.write("item,shop,price,label\n")
        out.writelines(f"{n % 1000},shop {n % 7},{n}.5,{n % 2}\n" for n in range(count))
    settings = Settings("csv", row_group_rows=rows_at_once, part_rows=50_000, block_bytes=100_000)
    convert(settings, [str(source)], tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", "train")
    one = read_row_group(dataset.row_groups[0], SCHEMA).nbytes
    raw = pq.ParquetFile(dataset.row_groups[0].file).read_row_group(0).nbytes
    arrow = []
    transform = Schema.apply

    def apply(schema: Schema, table: pa.Table) -> Examples:
        arrow.append(pa.total_allocated_bytes())
        return transform(schema, table)

    monkeypatch.setattr(Schema, "apply", apply)
    before = pa.total_allocated_bytes()
    order = RowOrder(tuple(group.rows for group in dataset.row_groups), 4_000, 0, 8, 1_000)
    reader = ExampleReader(dataset, SCHEMA, cache_bytes=10 * one, threads=threads)
    batches = order.batches(0, 0, order.steps_per_epoch)
    tracemalloc.start()
    for wanted in batches:
        reader.take(wanted)
    numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Arrow rounds its buffers up, and reads a chunk before it decodes it.
    assert max(arrow) - before < 4 * threads * raw
    # Beside the bound: the examples of a step, and the columns a thread is transforming.
    assert numpy < (10 + 1) * one + 2 * threads * (one + raw) + 4 * one
    assert len(arrow) >= len(dataset.row_groups) > 20
