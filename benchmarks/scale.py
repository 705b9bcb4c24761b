"""What plan, data and checkpoint cost by number of hosts: on one host of many, and on the driver.

    uv run python -m benchmarks.scale --hosts 16 256 1024 4096

No hosts are started: everything is what one host, or the driver, does in a run of so many, with the
functions that runs call and files on a local disk. Hosts have 4 devices of 2 SparseCores (v6e).

- *plan*: the driver makes it; its JSON goes to every host; a host reads it, places its features and
  makes it again for the hash. 1024 samples a host, the program of `workers.programs.clicks`.
- *encode*: a host's share of one batch, into buffers.
- *data*: a split of 4 files a host (at least 64) is opened, which a host and the driver do alike;
  the driver also checks the statistics in all footers. Then how many of the rows are used that a
  host reads in an epoch, as row groups are read whole: with 256 logical shards, as is the default,
  and with as many as hosts.
- *checkpoint*: a folder with the files of so many hosts, 33 each, of 64 bytes: what the first host
  and any other do to seal it, what a host does to verify its share, and what the driver looks at.

Times are the least of some runs, in seconds of CPU and wall alike where nothing waits.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.timing import markdown_table
from kernels import EmbeddingPlan, preprocess_sparse_dense_matmul_input
from orchestrator.config_loading import make_config
from workers.checksums import CHECKSUMS, join_parts, looks_whole, verify_files, write_part
from workers.data.dataset import open_dataset
from workers.data.index import INDEX, read_index, write_index
from workers.planning import check_inputs, make_plan, order_for, planned_specs, rebuilt
from workers.program import Program, load_program
from workers.protocol import RunSpec

SAMPLES_PER_HOST = 1024
FILES_PER_HOST = 33
DATA_FILES_PER_HOST, FEWEST_DATA_FILES = 4, 64
ROWS_PER_FILE = 4096
PARTS = ("plan", "data", "checkpoint")
RUNS = 3


def least(run: Callable[[], Any], runs: int = RUNS) -> float:
    """The least wall seconds of some runs."""
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def run_of(hosts: int, data: str = "") -> tuple[Program, RunSpec]:
    """The program, and the run of so many hosts."""
    config = make_config(
        {
            "program": "workers.programs.clicks:program",
            "batch_size": SAMPLES_PER_HOST * hosts,
            "hosts": hosts,
            "devices_per_host": 4,
        }
    )
    run = config.run_spec(data, "")
    run = dataclasses.replace(run, sparsecores_per_device=2, platform="tpu")
    return load_program(config.program, config.parameters), run


def measure_plan(hosts: int, folder: Path) -> dict[str, Any]:
    """Making, sending and taking a plan; encoding under it."""
    del folder
    program, run = run_of(hosts)
    plan = make_plan(program, run, hosts, None, None, 0)
    text = plan.to_json()

    def take() -> None:
        got = EmbeddingPlan.from_json(text)
        planned_specs(program, got)
        assert rebuilt(program, run, hosts, got).hash == plan.hash

    specs, rng = planned_specs(program, plan), np.random.default_rng(0)
    ids = {
        name: rng.integers(
            0,
            spec.table_spec.vocabulary_size,
            (SAMPLES_PER_HOST, spec.input_shape[-1]),
            dtype=np.int32,
        )
        for name, spec in specs.items()
    }

    def encode() -> Any:
        return preprocess_sparse_dense_matmul_input(
            ids, None, specs, 4, plan.topology.devices, num_sc_per_device=2
        )

    inputs, _ = encode()
    arrays = [array for kind in inputs for array in kind.values()]
    return {
        "driver makes it": seconds(least(lambda: make_plan(program, run, hosts, None, None, 0))),
        "JSON": f"{len(text) / 1024:.1f} KiB",
        "to all hosts": f"{len(text) * hosts / 2**20:.2f} MiB",
        "a host takes it": seconds(least(take)),
        "a host encodes a batch": seconds(least(encode, 10)),
        "its buffers": f"{sum(array.nbytes for array in arrays) / 2**20:.2f} MiB",
    }


def measure_data(hosts: int, folder: Path) -> dict[str, Any]:
    """Opening the data, and what a host reads of it."""
    files = max(FEWEST_DATA_FILES, DATA_FILES_PER_HOST * hosts)
    write_data(folder / "train", files)
    program, run = run_of(hosts, str(folder))
    columns = program.schema.columns
    opening = least(lambda: open_dataset(run.data, "train", columns), 1 if files > 4096 else RUNS)
    checking = least(lambda: check_inputs(program, run, hosts), 1)
    dataset = open_dataset(run.data, "train", columns)
    told = write_index(folder, {"train": dataset})
    reading = least(lambda: read_index(folder, told))
    starts = np.array([group.first_row for group in dataset.row_groups])

    def used(logical_shards: int | None) -> str:
        """Share of the rows used of the row groups that a host's batches of an epoch come from."""
        order = order_for(dataset, dataclasses.replace(run, logical_shards=logical_shards))
        rows = order.batches(0, 0, order.steps_per_epoch, (0, run.batch_size // hosts))
        rows = rows[rows >= 0]
        groups = np.unique(np.searchsorted(starts, rows, side="right"))
        return f"{rows.size / (len(groups) * ROWS_PER_FILE):.0%} of {len(groups)} groups"

    return {
        "files": files,
        "opening": seconds(opening),
        "a file": seconds(opening / files),
        "index": f"{(folder / INDEX).stat().st_size / 1024:,.0f} KiB",
        "a host reads it": seconds(reading),
        "driver checks": seconds(checking),
        "rows used": used(None),
        "with a shard a host": used(hosts),
    }


def write_data(folder: Path, files: int) -> None:
    """So many names of one Parquet file with the columns of the click log."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = {"user": 20_000, "item": 5_000, "hour": 24}
    columns: dict[str, Any] = {name: rng.integers(0, n, ROWS_PER_FILE) for name, n in ids.items()}
    columns |= {name: rng.random(ROWS_PER_FILE) for name in ("price", "age")}
    columns["history"] = pa.array([[1, 2, 3]] * ROWS_PER_FILE)
    columns["label"] = rng.integers(0, 2, ROWS_PER_FILE)
    first = folder / "part-00000.parquet"
    pq.write_table(pa.table(columns), first)
    for number in range(1, files):
        os.link(first, folder / f"part-{number:05}.parquet")


def measure_checkpoint(hosts: int, folder: Path) -> dict[str, Any]:
    """Sealing and verifying a checkpoint of so many hosts' files."""
    step = folder / "100"
    for host in range(hosts):
        place = step / "tables" / f"ocdbt.process_{host}" / "d"
        place.mkdir(parents=True)
        for number in range(FILES_PER_HOST):
            (place / f"{number:032x}").write_bytes(bytes(64))
    other = min(5, hosts - 1)
    of_another = least(lambda: write_part(step, other, hosts), 1)
    of_the_first = least(lambda: write_part(step, 0, hosts), 1)
    for host in range(hosts):
        # What each has written; all of it is what `write_part` would find, without the search.
        names = (f"tables/ocdbt.process_{host}/d/{n:032x}" for n in range(FILES_PER_HOST))
        content = ",".join(f'"{name}": [64, {zero_checksum()}]' for name in names)
        (step / f".{CHECKSUMS}.{host}").write_text("{" + content + "}")
    joining = least(lambda: join_parts(step, hosts), 1)
    size = (step / CHECKSUMS).stat().st_size
    return {
        "files": f"{hosts * FILES_PER_HOST:,}",
        "a host's part": seconds(of_another),
        "the first host's": seconds(of_the_first),
        "joining": seconds(joining),
        "checksums.json": f"{size / 2**20:.2f} MiB",
        "a host verifies": seconds(least(lambda: verify_files(step, other, hosts), 1)),
        "driver looks": seconds(least(lambda: looks_whole(step), 1)),
    }


def zero_checksum() -> int:
    """CRC-32 of 64 zeros."""
    import zlib

    return zlib.crc32(bytes(64))


def seconds(value: float) -> str:
    """With three digits, in the unit that suits it."""
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


MEASURES: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    "plan": measure_plan,
    "data": measure_data,
    "checkpoint": measure_checkpoint,
}


def table(part: str, hosts: list[int], place: Path | None = None) -> str:
    """The table of one part, a row for every number of hosts."""
    rows: list[list[Any]] = []
    header: list[str] = []
    for count in hosts:
        folder = Path(tempfile.mkdtemp(prefix="scale-", dir=place))
        try:
            found = MEASURES[part](count, folder)
        finally:
            shutil.rmtree(folder)
        header = ["hosts", *found]
        rows.append([count, *found.values()])
    return markdown_table(header, rows)


def main() -> None:
    """Measure, and print a table for every part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[16, 256, 1024, 4096])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, help="where files are written; removed after")
    options = parser.parse_args()
    for part in options.parts:
        print(f"{part}\n\n{table(part, options.hosts, options.folder)}\n", flush=True)


if __name__ == "__main__":
    main()
