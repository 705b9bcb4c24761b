"""Side tables joined to data: what the files of the output are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.data.convert import joining
from workers.data.convert.joining import join, read_side_table


def test_every_split_goes_into_files_of_so_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_ROWS_PER_FILE", 4)
    for split, rows in (("train", 12), ("test", 7)):
        (tmp_path / "data" / split).mkdir(parents=True)
        file = tmp_path / "data" / split / "a.parquet"
        pq.write_table(pa.table({"user": range(rows)}), file, row_group_size=2)
    side = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user": range(12), "age": range(20, 32)}), side)
    joined = join(
        str(tmp_path / "data"), [read_side_table(str(side), "user")], str(tmp_path / "out")
    )
    assert (joined.rows, joined.columns, joined.without) == (19, ("age",), {"user": 0})
    for split, rows in (("train", [4, 4, 4]), ("test", [4, 3])):
        tables = [pq.read_table(file) for file in sorted((tmp_path / "out" / split).iterdir())]
        assert [table.num_rows for table in tables] == rows
        ages = pa.concat_tables(tables).column("age").to_pylist()
        assert ages == list(range(20, 20 + sum(rows)))
