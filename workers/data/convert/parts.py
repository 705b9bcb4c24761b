"""Tables as Parquet files with row groups of even size."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["PartWriter"]


class PartWriter:
    """Writes one file, which has its name only when it is whole.

    Row groups have ``row_group_rows`` rows; the last two share what is left evenly, so that none is
    a sliver which a shuffle could hardly mix. At most twice that many rows are held.

    Args:
        file: Where it goes.
        schema: Its columns.
        row_group_rows: Rows of a row group.

    Attributes:
        rows: Rows so far.
    """

    def __init__(self, file: Path, schema: pa.Schema, row_group_rows: int) -> None:
        self._file, self._row_group_rows = file, row_group_rows
        self._partial = file.with_name(f".{file.name}.partial")
        self._writer = pq.ParquetWriter(
            self._partial, schema, compression="zstd", write_page_checksum=True
        )
        self._held = schema.empty_table()
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._writer.close()
            self._partial.unlink(missing_ok=True)

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        self.rows += table.num_rows
        self._held = pa.concat_tables([self._held, table])
        while self._held.num_rows >= 2 * self._row_group_rows:
            self._write(self._row_group_rows)

    def finish(self) -> None:
        """Write what is left, and give the file its name."""
        left = self._held.num_rows
        if left > self._row_group_rows:
            self._write(left - left // 2)
        if self._held.num_rows:
            self._write(self._held.num_rows)
        self._writer.close()
        self._partial.replace(self._file)

    def _write(self, rows: int) -> None:
        self._writer.write_table(self._held.slice(0, rows), row_group_size=rows)
        self._held = self._held.slice(rows)
