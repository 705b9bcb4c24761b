"""Text to Parquet: the values of a plain reading, restarts to the byte, errors with their line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.convert import Settings, convert
from workers.data.convert import sources as convert_sources
from workers.data.convert.parts import PartWriter
from workers.data.convert.sources import blocks_of, sources_of
from workers.data.dataset import open_dataset
from workers.errors import DataError


def criteo_lines(rows: int, seed: int = 0) -> list[str]:
    """Lines of Criteo's layout, an eighth of the values missing."""
    random = np.random.default_rng(seed)
    numbers = random.integers(-3, 5000, (rows, 13))
    words = random.integers(0, 1 << 32, (rows, 26))
    missing = random.random((rows, 39)) < 1 / 8
    lines = []
    for row in range(rows):
        values = [*map(str, numbers[row]), *(f"{word:08x}" for word in words[row])]
        shown = ["" if gone else value for value, gone in zip(values, missing[row], strict=True)]
        lines.append("\t".join([str(row % 2), *shown]))
    return lines


def write(file: Path, lines: list[str]) -> str:
    text = "".join(line + "\n" for line in lines).encode()
    pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(file.suffix, lambda text: text)
    file.write_bytes(pack(text))
    return str(file)


def rows_in(folder: Path) -> list[dict]:
    dataset = open_dataset(folder, "train")
    files = dict.fromkeys(str(group.file) for group in dataset.row_groups)
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("ending", ["tsv", "gz", "bz2"])
def test_criteo(tmp_path: Path, ending: str) -> None:
    lines = criteo_lines(300)
    source = write(tmp_path / f"day_0.{ending}", lines)
    done = convert(Settings("criteo", block_bytes=10_000), [source], tmp_path / "logs")
    assert (done.rows, done.parts, done.bad) == (300, 1, 0)
    columns = ["label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]
    for line, row in zip(lines, rows_in(done.folder), strict=True):
        values = line.split("\t")
        numbers = [int(value) if value else None for value in values[:14]]
        assert list(row) == columns
        assert list(row.values()) == [*numbers, *(value or None for value in values[14:])]


@pytest.mark.parametrize(
    ("delimiter", "header"), [("::", None), ("\t", None), (",", "userId,movieId,rating,timestamp")]
)
def test_ratings(tmp_path: Path, delimiter: str, header: str | None) -> None:
    ratings = [(1, 1193, 5.0, 978300760), (1, 661, 3.5, 978302109), (22, 914, 4.0, 978301968)]
    lines = [delimiter.join(map(str, rating)) for rating in ratings]
    source = write(tmp_path / "ratings.dat", [*([header] if header else []), *lines])
    convert(Settings("ratings"), [source], tmp_path / "out")
    names = ("user", "item", "rating", "timestamp", "label")
    assert rows_in(tmp_path / "out") == [
        dict(zip(names, (*rating, int(rating[2] >= 4)), strict=True)) for rating in ratings
    ]


def test_ratings_of_named_users_without_time(tmp_path: Path) -> None:
    source = write(tmp_path / "r.csv", ["A2X,B00,2", "A2Y,B01,3"])
    convert(Settings("ratings", positive=3), [source], tmp_path / "out")
    assert rows_in(tmp_path / "out") == [
        {"user": "A2X", "item": "B00", "rating": 2.0, "label": 0},
        {"user": "A2Y", "item": "B01", "rating": 3.0, "label": 1},
    ]
    other = write(tmp_path / "two.csv", ["a,b"])
    with pytest.raises(DataError, match=r"first line has 2 values.*convert it as csv"):
        convert(Settings("ratings"), [other], tmp_path / "two")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(
    table=st.lists(st.tuples(st.integers(-(2**40), 2**40), texts, st.booleans()), min_size=1),
    block_bytes=st.sampled_from([16, 40, 1000]),
)
def test_csv_with_quotes_and_line_ends_in_values(
    tmp_path_factory: pytest.TempPathFactory, table: list, block_bytes: int
) -> None:
    """Values come back as they were, wherever the blocks are cut."""
    folder = tmp_path_factory.mktemp("csv")
    buffer = io.StringIO()
    written = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    written.writerows([("number", "text", "yes"), *table])
    (folder / "a.csv").write_text(buffer.getvalue(), encoding="utf-8", newline="")
    types = {"number": "int64", "text": "string", "yes": "string"}
    wanted = Settings("csv", delimiter=",", types=types, block_bytes=block_bytes, part_rows=5)
    try:
        convert(wanted, [str(folder / "a.csv")], folder / "out")
    except DataError as error:
        assert "no end of it" in str(error)
        return
    assert [tuple(row.values()) for row in rows_in(folder / "out")] == [
        (number, text, str(yes)) for number, text, yes in table
    ]


def test_csv_types_names_and_words_for_no_value(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", ["city;price;seen", "NA;1.5;2013-01-01", ";;2013-01-02"])
    second = write(tmp_path / "b.csv.gz", ["city;price;seen", "x;2;2013-01-03"])
    convert(Settings("csv", nulls=("NA",)), [first, second], tmp_path / "out")
    found = rows_in(tmp_path / "out")
    assert [row["city"] for row in found] == [None, None, "x"]
    assert [row["price"] for row in found] == [1.5, None, 2.0]
    assert str(found[2]["seen"]) == "2013-01-03"
    bare = write(tmp_path / "c.txt", ["1|2", "3|4"])
    wanted = Settings("csv", columns=("a", "b"), types={"b": "float32"})
    convert(wanted, [bare], tmp_path / "bare")
    table = pq.read_table(tmp_path / "bare" / "part-00000.parquet")
    assert table.schema.types == [pa.int64(), pa.float32()]
    assert table["a"].to_pylist() == [1, 3]


def test_a_folder_of_files_and_even_row_groups(tmp_path: Path) -> None:
    (tmp_path / "days").mkdir()
    lines = criteo_lines(250)
    write(tmp_path / "days" / "day_0.gz", lines[:90])
    write(tmp_path / "days" / "day_1.tsv", lines[90:])
    (tmp_path / "days" / "README").write_text("no data")
    wanted = Settings("criteo", row_group_rows=32, part_rows=100, block_bytes=4000)
    done = convert(wanted, [str(tmp_path / "days")], tmp_path / "out")
    assert done.rows == 250 and done.parts > 1
    assert [row["C1"] for row in rows_in(done.folder)] == [
        line.split("\t")[14] or None for line in lines
    ]
    sizes = [group.rows for group in open_dataset(done.folder, "train").row_groups]
    assert max(sizes) == 32 and min(sizes) >= 16


class _Killed(BaseException):
    """Ends a conversion as a signal would: nothing of ours catches it."""


@pytest.mark.parametrize("ending", ["tsv", "gz"])
def test_a_conversion_goes_on_where_it_was_ended(tmp_path: Path, ending: str) -> None:
    sources = [write(tmp_path / f"{n}.{ending}", criteo_lines(120 + n, seed=n)) for n in range(3)]
    wanted = Settings("criteo", row_group_rows=20, part_rows=50, block_bytes=3000)
    whole = convert(wanted, sources, tmp_path / "whole")
    calls = 0

    def stop(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls % 7 == 0:
            raise _Killed

    kept = []
    for _ in range(100):
        try:
            done = convert(wanted, sources, tmp_path / "out", stop)
        except _Killed:
            assert not (tmp_path / "out").exists()
            kept.append(len(list((tmp_path / ".out.converting").glob("part-*.parquet"))))
            continue
        break
    assert kept == sorted(set(kept)) and len(kept) > 2
    assert (done.rows, done.parts, done.parts_kept) == (whole.rows, whole.parts, kept[-1])
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    again = convert(wanted, sources, tmp_path / "out")
    assert again.parts_kept == again.parts == whole.parts


def test_what_has_changed_since_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tsv", criteo_lines(100))
    wanted = Settings("criteo", part_rows=20, block_bytes=2000)

    def stop(progress: object) -> None:
        if getattr(progress, "parts", 0) == 2:
            raise _Killed

    with pytest.raises(_Killed):
        convert(wanted, [source], tmp_path / "out", stop)
    with pytest.raises(DataError, match="block_bytes was 2000, now 3000"):
        convert(Settings("criteo", part_rows=20, block_bytes=3000), [source], tmp_path / "out")
    part = tmp_path / ".out.converting" / "part-00001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"part-00001.parquet' is not as the conversion has left"):
        convert(wanted, [source], tmp_path / "out")
    part.write_bytes(whole)
    write(tmp_path / "a.tsv", criteo_lines(99))
    with pytest.raises(DataError, match=r"sources have changed: .*a.tsv.*remove that folder"):
        convert(wanted, [source], tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(DataError, match="is there already"):
        convert(wanted, [source], tmp_path / "other")
    with pytest.raises(DataError, match="nowhere' does not exist"):
        convert(wanted, [str(tmp_path / "nowhere")], tmp_path / "new")
    with pytest.raises(DataError, match="named twice"):
        convert(wanted, [source, source], tmp_path / "new")


def bad_criteo(file: Path) -> tuple[str, list[str]]:
    lines = criteo_lines(200)
    values = lines[41].split("\t")
    lines[41] = "\t".join([*values[:3], "12x", *values[4:]])
    lines[150] = "1\t2"
    lines[151] = lines[151] + "\textra"
    return write(file, lines), lines


@pytest.mark.parametrize("ending", ["tsv", "gz"])
def test_a_bad_line_is_named(tmp_path: Path, ending: str) -> None:
    source, _ = bad_criteo(tmp_path / f"a.{ending}")
    for allowed in (0, 2):
        line = r"line 42, column 'I3': .*'12x'" if allowed == 0 else r"line 152: .*40.*got 41"
        with pytest.raises(DataError, match=rf"a.{ending}', {line}"):
            convert(
                Settings("criteo", block_bytes=4000, most_bad=allowed), [source], tmp_path / "out"
            )
        assert not (tmp_path / "out").exists()


def test_bad_lines_are_left_out_and_written_down(tmp_path: Path) -> None:
    source, lines = bad_criteo(tmp_path / "a.tsv")
    wanted = Settings("criteo", block_bytes=4000, part_rows=60, most_bad=3)
    done = convert(wanted, [source], tmp_path / "out")
    assert (done.rows, done.bad) == (197, 3)
    written = [
        json.loads(line)
        for file in sorted((tmp_path / "out" / "_quarantine").iterdir())
        for line in file.read_text().splitlines()
    ]
    assert [entry["line"] for entry in written] == [42, 151, 152]
    assert [entry["text"] for entry in written] == [lines[41], lines[150], lines[151]]
    assert [row["C1"] for row in rows_in(done.folder)] == [
        line.split("\t")[14] or None for n, line in enumerate(lines) if n not in (41, 150, 151)
    ]


def test_damaged_empty_and_odd_sources_are_named(tmp_path: Path) -> None:
    lines = criteo_lines(2000)
    source = Path(write(tmp_path / "a.gz", lines))
    source.write_bytes(source.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"a.gz' cannot be read as gzip"):
        convert(Settings("criteo", block_bytes=4000), [str(source)], tmp_path / "out")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match=r"empty.csv' is empty"):
        convert(Settings("csv"), [str(tmp_path / "empty.csv")], tmp_path / "out2")
    only = write(tmp_path / "header.csv", ["a,b"])
    with pytest.raises(DataError, match="no rows"):
        convert(Settings("csv"), [only], tmp_path / "out3")
    for lines, said in (["user,item,rating"], "no rows"), (["a,b,c", "1,2"], "line 2 has 2 values"):
        short = write(tmp_path / "short.csv", lines)
        with pytest.raises(DataError, match=said):
            convert(Settings("ratings"), [short], tmp_path / "out4")
    one, two = write(tmp_path / "1.csv", ["a,b", "1,2"]), write(tmp_path / "2.csv", ["b,a", "1,2"])
    with pytest.raises(DataError, match=r"2.csv' has other columns than the first: \['b', 'a'\]"):
        convert(Settings("csv"), [one, two], tmp_path / "out4")
    long = write(tmp_path / "long.csv", ["a", '"' + "x" * 5000])
    with pytest.raises(DataError, match="line 2: no end of it"):
        convert(Settings("csv", block_bytes=100), [long], tmp_path / "out5")
    with pytest.raises(DataError, match="no type 'floaty'"):
        convert(Settings("csv", types={"a": "floaty"}), [one], tmp_path / "out6")
    with pytest.raises(DataError, match="no column \\['z'\\]"):
        convert(Settings("csv", types={"z": "int8"}), [one], tmp_path / "out7")
    text = write(tmp_path / "t.csv", ["a,b", "1,2", "", "x,4"])
    with pytest.raises(DataError, match="line 4, column 'a'"):
        convert(Settings("csv", types={"a": "int64"}), [text], tmp_path / "out8")


class Counted(str):
    """A name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_many_sources_are_not_compared_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_sources, "kind_of", lambda name: "file")
    monkeypatch.setattr(convert_sources, "_source", lambda name: name)
    names = [Counted(f"part-{number}.csv") for number in range(3000)]
    assert sources_of(names) == names
    assert Counted.compared < 3 * len(names)
    with pytest.raises(DataError, match=r"'part-7\.csv' is named twice"):
        sources_of([*names, Counted("part-7.csv")])


@settings(max_examples=50, deadline=None)
@given(
    records=st.lists(st.lists(st.text('ab"\n', max_size=6), min_size=1, max_size=3), min_size=1),
    size=st.integers(16, 60),
)
def test_blocks_hold_whole_records(
    tmp_path_factory: pytest.TempPathFactory, records: list[list[str]], size: int
) -> None:
    file = tmp_path_factory.mktemp("blocks") / "a.csv"
    with file.open("w", newline="") as out:
        csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(records)
    source = sources_of([str(file)])[0]
    whole = list(blocks_of(source, size=size, quoted=True))
    assert b"".join(block.text for block in whole) == file.read_bytes()
    got = [row for b in whole for row in csv.reader(io.StringIO(b.text.decode(), newline=""))]
    assert got == records
    for block, after in pairwise(whole):
        later = list(
            blocks_of(source, size=size, quoted=True, offset=block.end, line=block.end_line)
        )
        assert later[0].line == after.line
        assert b"".join(b.text for b in later) == file.read_bytes()[block.end :]


@settings(max_examples=40, deadline=None)
@given(tables=st.lists(st.integers(0, 30), max_size=8), row_group_rows=st.integers(1, 12))
def test_row_groups_are_even(
    tmp_path_factory: pytest.TempPathFactory, tables: list[int], row_group_rows: int
) -> None:
    file = tmp_path_factory.mktemp("part") / "a.parquet"
    numbers = iter(range(1000))
    with PartWriter(file, pa.schema([("a", pa.int64())]), row_group_rows) as part:
        for rows in tables:
            part.add(pa.table({"a": pa.array([next(numbers) for _ in range(rows)], pa.int64())}))
        assert not file.exists()
        part.finish()
    written = pq.ParquetFile(file)
    assert written.read()["a"].to_pylist() == list(range(sum(tables)))
    sizes = [written.metadata.row_group(n).num_rows for n in range(written.num_row_groups)]
    assert all(size <= row_group_rows for size in sizes)
    if sum(tables) >= row_group_rows:
        assert all(2 * size >= row_group_rows for size in sizes)


@pytest.mark.parametrize("ending", ["tsv", "gz"])
def test_memory_does_not_grow_with_the_source(tmp_path: Path, ending: str) -> None:
    """Most of what is held at once is the same for ten times the lines."""
    lines = criteo_lines(2000)
    peaks = []
    for times in (2, 20):
        source = write(tmp_path / f"{times}.{ending}", lines * times)
        wanted = Settings("criteo", row_group_rows=1000, part_rows=4000, block_bytes=200_000)
        before = pa.total_allocated_bytes()
        arrow = 0

        def look(_: object, before: int = before) -> None:
            nonlocal arrow
            arrow = max(arrow, pa.total_allocated_bytes() - before)

        tracemalloc.start()
        convert(wanted, [source], tmp_path / f"out-{times}", look)
        peaks.append(arrow + tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
