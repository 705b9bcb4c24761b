"""Footers are parsed once a file, never taken for those of another, and bounded in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.data import tables
from workers.data.footers import Footers
from workers.data.tables import read_contents, read_table
from workers.errors import DataError


def write(file: Path, rows: int, row_group: int = 10) -> pq.FileMetaData:
    pq.write_table(pa.table({"x": range(rows)}), file, row_group_size=row_group)
    return pq.read_metadata(file)


def test_a_footer_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, parsed = tmp_path / "a.parquet", []
    write(file, 50)
    opened = pq.ParquetFile

    def noted(source: Any, *, metadata: pq.FileMetaData | None, **named: Any) -> pq.ParquetFile:
        parsed.append(metadata is None)
        return opened(source, metadata=metadata, **named)

    monkeypatch.setattr(tables.pq, "ParquetFile", noted)
    assert read_contents(str(file)).rows == (10,) * 5
    for number in range(5):
        found = read_table(str(file), number, ["x"], 10).column("x").to_pylist()
        assert found == list(range(10 * number, 10 * number + 10))
    assert parsed == [True] + [False] * 5


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write(file, 50)
    read_table(str(file), 0, ["x"], 10)
    write(file, 50, row_group=25)
    with pytest.raises(DataError, match="has 25 rows, but had 10"):
        read_table(str(file), 0, ["x"], 10)
    assert read_contents(str(file)).rows == (25, 25)


def test_the_longest_unused_make_room(tmp_path: Path) -> None:
    footer = write(tmp_path / "a.parquet", 50)
    kept = Footers(3 * footer.serialized_size)
    versions = [(name, 1, None) for name in "abcd"]
    for version in versions[:3]:
        kept.keep(version, footer)
        kept.keep(version, footer)
    assert all(kept.get(version) is not None for version in versions[:3])
    assert kept.get(versions[0]) is not None
    kept.keep(versions[3], footer)
    assert [kept.get(version) is None for version in versions] == [False, True, False, False]
    Footers(1).keep(versions[0], footer)
