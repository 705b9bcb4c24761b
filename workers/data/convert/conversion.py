"""A conversion from text to Parquet: streaming, in bounded memory, and restartable.

    sources ─► block of lines ─► table ─► part-00000.parquet, part-00001.parquet, …
                                   └───► _quarantine/part-00000.jsonl   (bad lines, where allowed)

Everything is written in a hidden folder beside the output, ``.NAME.converting``, which gets its
name when all is done: what is not finished is no data to anybody. After each part the manifest says
where the next one begins, so the same command goes on there, and ends with the same files.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from workers.data.convert.layouts import KINDS, Layout, first_values, layout_of
from workers.data.convert.manifest import Manifest, Part
from workers.data.convert.parsing import BadLine, parse, parse_good_lines
from workers.data.convert.parts import PartWriter
from workers.data.convert.sources import Block, Source, blocks_of, sources_of
from workers.data.transforms.columns import null_mask
from workers.errors import DataError

__all__ = ["Converted", "Progress", "Settings", "convert"]

QUARANTINE = "_quarantine"


@dataclass(frozen=True)
class Settings:
    """What to make of the sources.

    Attributes:
        kind: ``criteo``, ``ratings`` or ``csv``: see ``workers.data.convert.layouts``.
        delimiter: Between two values; by default found from the first line.
        columns: Names of the columns of CSV files that have no header.
        types: Types of columns by name, in Arrow's words, for those that are found wrong.
        nulls: Words that stand for no value, besides the empty one.
        positive: Ratings of at least this have label 1.
        row_group_rows: Rows of a row group.
        part_rows: A file ends with the block in which it reaches so many rows.
        block_bytes: Text that is read and parsed at a time.
        most_bad: Bad lines that may be left out; each is written down.
    """

    kind: str
    delimiter: str | None = None
    columns: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    nulls: tuple[str, ...] = ()
    positive: float = 4.0
    row_group_rows: int = 65_536
    part_rows: int = 1 << 20
    block_bytes: int = 8 << 20
    most_bad: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"there is no layout '{self.kind}'; there are {', '.join(KINDS)}")
        for name, least in {
            "row_group_rows": 1,
            "part_rows": 1,
            "block_bytes": 16,
            "most_bad": 0,
        }.items():
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}; give at least {least}")

    def as_json(self) -> dict[str, Any]:
        """Them as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True)
class Progress:
    """How far a conversion is: rows and parts written, bytes of the sources read and in all."""

    rows: int
    parts: int
    bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Converted:
    """What a conversion came to.

    Attributes:
        folder: Where the files are.
        rows: Rows in them.
        parts: Files.
        bad: Lines left out, written down in the folder's ``_quarantine``.
        parts_kept: Files that were there already, from a conversion that was ended.
    """

    folder: Path
    rows: int
    parts: int
    bad: int
    parts_kept: int


def convert(
    settings: Settings,
    sources: Sequence[str],
    output: str | Path,
    report: Callable[[Progress], None] = lambda _: None,
) -> Converted:
    """Convert files of text to a folder of Parquet files.

    Where it was ended before, it goes on after the last finished file; where it is finished
    already, nothing is done.

    Args:
        settings: What to make of them.
        sources: Files and folders, of this machine or at addresses.
        output: Folder of this machine to make.
        report: Is told how far it is, after every block.

    Raises:
        DataError: A source is missing, damaged or of another layout, or a line cannot be read: with
            source, line and column. Or the output holds something else.
    """
    output = Path(output).absolute()
    files = tuple(sources_of(sources))
    done = Manifest.read(output)
    if done is not None:
        done.check_same(settings.as_json(), files, output)
        return _converted(output, done, len(done.parts))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"output '{output}' is there already; give the name of a new folder")
    building = output.with_name(f".{output.name}.converting")
    building.mkdir(parents=True, exist_ok=True)
    with _alone(building):
        manifest = Manifest.read(building)
        if manifest is None:
            manifest = Manifest(settings.as_json(), files, _layout(settings, files[0]))
            manifest.write(building)
        manifest.check_same(settings.as_json(), files, building)
        kept = len(manifest.parts)
        _check_parts(manifest, building)
        manifest = _write_parts(manifest, settings, building, report)
        if not manifest.parts:
            raise DataError(f"the sources have no rows: {', '.join(map(str, sources))}")
        for leftover in building.glob(".*.partial"):
            leftover.unlink()
        building.replace(output)
    return _converted(output, manifest, kept)


def _converted(folder: Path, manifest: Manifest, kept: int) -> Converted:
    parts = manifest.parts
    rows, bad = sum(part.rows for part in parts), sum(part.bad for part in parts)
    return Converted(folder, rows, len(parts), bad, kept)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder, so that two conversions do not write the same."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another conversion is writing into '{folder}'") from error
        yield


def _layout(settings: Settings, source: Source) -> Layout:
    # Only quotes of CSV files can hide a line end; a layout is not known yet.
    blocks = blocks_of(source, size=settings.block_bytes, quoted=settings.kind == "csv")
    block = next(blocks, None)
    if block is None:
        raise DataError(f"source '{source.file}' is empty")
    where = f"source '{source.file}'"
    try:
        return layout_of(
            settings.kind,
            block.text,
            where=where,
            delimiter=settings.delimiter,
            names=settings.columns,
            types=settings.types,
            nulls=settings.nulls,
            positive=settings.positive,
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where}: its first lines have no common layout: {error}; check --delimiter and "
            "--types"
        ) from error


def _check_parts(manifest: Manifest, folder: Path) -> None:
    for part in manifest.parts:
        file = folder / part.file
        if not file.is_file() or file.stat().st_size != part.bytes:
            raise DataError(
                f"'{file}' is not as the conversion has left it; remove '{folder}' to convert anew"
            )


def _write_parts(
    manifest: Manifest,
    settings: Settings,
    folder: Path,
    report: Callable[[Progress], None],
) -> Manifest:
    """Write the parts that are missing; returns the manifest with them."""
    blocks = _blocks(manifest, settings)
    total = sum(source.bytes for source in manifest.sources)
    following = next(blocks, None)
    while following is not None:
        number = len(manifest.parts)
        name = f"part-{number:05d}.parquet"
        bad: list[dict[str, Any]] = []
        left = settings.most_bad - sum(part.bad for part in manifest.parts)
        rows = sum(part.rows for part in manifest.parts)
        with PartWriter(folder / name, manifest.layout.schema, settings.row_group_rows) as part:
            while following is not None:
                place, block = following
                table, wrong = _table(manifest.layout, block, left - len(bad))
                source = manifest.sources[place].file
                bad += [{"source": source} | dataclasses.asdict(line) for line in wrong]
                if len(bad) > left:
                    raise _too_many_bad(wrong[-1], source, settings.most_bad)
                part.add(table)
                read = sum(s.bytes for s in manifest.sources[:place]) + block.read
                report(Progress(rows + part.rows, number, min(read, total), total))
                end = (place, block.end, block.end_line)
                following = next(blocks, None)
                if part.rows >= settings.part_rows:
                    break
            if part.rows or bad:
                _write_bad(folder / QUARANTINE / name.replace(".parquet", ".jsonl"), bad)
                part.finish()
                size = (folder / name).stat().st_size
                finished = Part(name, part.rows, size, len(bad), *end)
                manifest = dataclasses.replace(manifest, parts=(*manifest.parts, finished))
                manifest.write(folder)
    return manifest


def _blocks(manifest: Manifest, settings: Settings) -> Iterator[tuple[int, Block]]:
    """The blocks that no finished part holds, with the number of their source."""
    layout = manifest.layout
    last = manifest.parts[-1] if manifest.parts else Part("", 0, 0, 0, 0, 0, 1)
    for place in range(last.source, len(manifest.sources)):
        source = manifest.sources[place]
        offset, line = (last.offset, last.line) if place == last.source else (0, 1)
        for block in blocks_of(
            source, size=settings.block_bytes, quoted=layout.quoted, offset=offset, line=line
        ):
            if layout.header and block.line == 1:
                header, _, text = block.text.partition(b"\n")
                _check_header(header, source, layout, settings.kind)
                block = dataclasses.replace(block, text=text, line=2)
            yield place, block


def _check_header(header: bytes, source: Source, layout: Layout, kind: str) -> None:
    """Refuse a file with other columns than the first; ratings have names of ours."""
    found = first_values(header, layout.delimiter, layout.quoted)
    names = [name for name, _ in layout.columns]
    if found != names and kind == "csv":
        raise DataError(
            f"source '{source.file}' has other columns than the first: {found}, not {names}; "
            "convert them apart, or name the columns of files without a header with --columns"
        )


def _table(layout: Layout, block: Block, most: int) -> tuple[pa.Table, list[BadLine]]:
    how = (layout.delimiter, layout.quoted, layout.columns, layout.nulls)
    try:
        table, bad = parse(block.text, *how), []
    except pa.ArrowInvalid:
        table, bad = parse_good_lines(block.text, block.line, *how, most)
    if layout.positive is not None:
        liked = table.column("rating").to_numpy() >= layout.positive
        unknown = null_mask(table.column("rating"))
        table = table.append_column("label", pa.array(liked.astype(np.int8), mask=unknown))
    return table, bad


def _too_many_bad(line: BadLine, source: str, most: int) -> DataError:
    column = "" if line.column is None else f", column '{line.column}'"
    allowed = f"; quarantine={most} allows no more" if most else ""
    return DataError(
        f"source '{source}', line {line.line}{column}: {line.problem}{allowed}; mend the line, "
        "give --types if a column's type was found wrong, or leave bad lines out with --quarantine"
    )


def _write_bad(file: Path, bad: Sequence[Mapping[str, Any]]) -> None:
    if not bad:
        return
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in bad), encoding="utf-8")
