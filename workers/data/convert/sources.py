"""Text files to convert, read in blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from workers.data.files import filesystem_of, kind_of, names_below, reading
from workers.errors import DataError

__all__ = ["Block", "Source", "blocks_of", "sources_of"]

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_TEXT_ENDINGS = (".csv", ".tsv", ".txt", ".dat", ".data")
_LONGEST_LINE_BLOCKS = 4


@dataclass(frozen=True)
class Source:
    """A file as it was when the conversion began.

    Attributes:
        file: Path or address.
        bytes: Its size, compressed or not.
        changed_ns: When it was last changed, in nanoseconds since 1970; None where unknown.
    """

    file: str
    bytes: int
    changed_ns: int | None

    @property
    def compression(self) -> str | None:
        """How it is compressed, by its name."""
        return next((c for e, c in _COMPRESSIONS.items() if self.file.endswith(e)), None)


@dataclass(frozen=True)
class Block:
    """Some lines of a source.

    Attributes:
        text: Whole lines.
        line: Number of the first one, from 1.
        end: Where the next block begins, in bytes without compression.
        end_line: Number of the first line after it.
        read: Bytes of the file read so far, compressed or not.
    """

    text: bytes
    line: int
    end: int
    end_line: int
    read: int


def sources_of(names: Sequence[str]) -> list[Source]:
    """The files that are named, and those of the folders that are.

    Of a folder come the files that end with .csv, .tsv, .txt, .dat or .data, or are compressed.

    Raises:
        DataError: Something is missing, or a folder has no such file.
    """
    found: list[str] = []
    for name in names:
        kind = kind_of(name)
        if kind is None:
            raise DataError(f"source '{name}' does not exist")
        below = names_below(name) if kind == "folder" else []
        files = [
            f"{name.rstrip('/')}/{n}" for n in below if n.endswith((*_TEXT_ENDINGS, *_COMPRESSIONS))
        ]
        if kind == "folder" and not files:
            endings = ", ".join([*_TEXT_ENDINGS, *_COMPRESSIONS])
            raise DataError(f"source '{name}' has no file that ends with {endings}")
        found += files if kind == "folder" else [name]
    seen: set[str] = set()
    for name in found:
        if name in seen:
            raise DataError(f"source '{name}' is named twice; its rows would be there twice")
        seen.add(name)
    return [_source(name) for name in found]


def blocks_of(
    source: Source, *, size: int, quoted: bool, offset: int = 0, line: int = 1
) -> Iterator[Block]:
    """The lines of a source, from an offset on, in blocks of about ``size`` bytes.

    Where the blocks end depends on the content, ``size`` and the offset begun at alone.

    Args:
        source: The file.
        size: Bytes read at a time, without compression.
        quoted: Whether values may be quoted, and then hold line ends.
        offset: Where to begin: an ``end`` of before.
        line: Number of the line there.

    Raises:
        DataError: The file is missing or damaged, or has a line of several times ``size``.
    """
    where = f"source '{source.file}'"
    filesystem, path = filesystem_of(source.file)
    with reading(where, source.compression or "text"), filesystem.open_input_file(path) as raw:
        if source.compression is None:
            raw.seek(offset)
            stream = raw
        else:
            stream = pa.CompressedInputStream(raw, source.compression)
            _skip(stream, offset, size, where)
        rest, ended = b"", False
        while not ended:
            # A block begins where the last one ended and is cut from this many bytes: so it is the
            # same whether reading went on or began there.
            wanted = size - len(rest) % size
            got = _read(stream, wanted)
            ended = len(got) < wanted
            text = rest + got
            cut = len(text) if ended else _last_line_end(text, quoted)
            if not cut and not ended:
                if len(text) > _LONGEST_LINE_BLOCKS * size:
                    raise DataError(
                        f"{where}, line {line}: no end of it within {len(text):,} bytes; is this "
                        "text, and are its quotes closed?"
                    )
                rest = text
                continue
            text, rest = text[:cut], text[cut:]
            if text:
                offset += len(text)
                first, line = line, line + text.count(b"\n")
                read = raw.tell() if source.compression else offset
                yield Block(text, first, offset, line, read)


def _source(name: str) -> Source:
    filesystem, path = filesystem_of(name)
    info = filesystem.get_file_info(path)
    return Source(name, info.size or 0, info.mtime_ns)


def _read(stream: pa.NativeFile, size: int) -> bytes:
    """So many bytes, or all there are."""
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _skip(stream: pa.NativeFile, offset: int, size: int, where: str) -> None:
    while offset:
        got = _read(stream, min(offset, size))
        if not got:
            raise DataError(f"{where} is shorter than it was")
        offset -= len(got)


def _last_line_end(text: bytes, quoted: bool) -> int:
    """Where the last whole line ends; 0 if there is none."""
    cut = text.rfind(b"\n") + 1
    # Inside quotes a line end is part of the value: the quotes before a true one come in pairs.
    quotes = text.count(b'"', 0, cut) if quoted else 0
    while cut and quotes % 2:
        earlier = text.rfind(b"\n", 0, cut - 1) + 1
        quotes -= text.count(b'"', earlier, cut)
        cut = earlier
    return cut
