"""Footers of Parquet files, parsed once a file and not once a row group.

A footer describes every column of every row group: of a file with thousands of them it takes longer
to parse than a row group to read, and from an object store it takes a request or two.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import pyarrow.fs
import pyarrow.parquet as pq

__all__ = ["Footers"]

type _Version = tuple[str, int | None, int | None]


class Footers:
    """Keeps the footers last used; may be asked on any thread.

    A file that was replaced (it has another size or time of change) counts as another file.

    Args:
        capacity_bytes: Most bytes of footers, as they are in their files. In memory each takes a
            few times as much.
    """

    def __init__(self, capacity_bytes: int = 32 << 20) -> None:
        self._capacity = capacity_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Version, pq.FileMetaData] = OrderedDict()
        self._bytes = 0

    def get(self, version: _Version) -> pq.FileMetaData | None:
        """The footer of a version of a file, if it is kept."""
        with self._lock:
            if version in self._kept:
                self._kept.move_to_end(version)
            return self._kept.get(version)

    def keep(self, version: _Version, footer: pq.FileMetaData) -> None:
        """Keep a footer; those unused for longest make room."""
        with self._lock:
            if version not in self._kept:
                self._kept[version] = footer
                self._bytes += footer.serialized_size
            while self._bytes > self._capacity:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.serialized_size

    @staticmethod
    def version(file: str, info: pyarrow.fs.FileInfo) -> _Version:
        """What tells a file from what may take its place."""
        return file, info.size, info.mtime_ns
