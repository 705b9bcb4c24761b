r"""Rows per second from Parquet files to ready batches, against torch's DataLoader and grain.

    EMBERAY_TORCH_PYTHON=/tmp/torch/bin/python EMBERAY_GRAIN_PYTHON=/tmp/grain/bin/python \
        uv run python -m benchmarks.data

Prints markdown. The rivals run in environments of their own, and are left out without them:

    uv venv /tmp/torch && uv pip install --python /tmp/torch torch==2.13.0 numpy pyarrow==26.0.1
    uv venv /tmp/grain && uv pip install --python /tmp/grain grain==0.2.18 pyarrow==26.0.1

All read the same files: 26 columns of ids, a list of up to 20 ids, 13 numbers and a label. Ours
ends with what the devices need, ids sorted by partition, merged and in buffers; theirs with padded
arrays, of which that would still have to be made. All shuffle: ours over the whole epoch, theirs
in a window or within row groups. Everyone runs several times, in turns, in a process of its own;
the best counts. Ours is timed from the call on, as its first batch takes rows from all over the
data and so much is read by then; theirs from their first batch on, without the start of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.rivals import TORCH_PYTHON
from benchmarks.timing import markdown_table

GRAIN_PYTHON = "EMBERAY_GRAIN_PYTHON"
"""Environment variable: a Python that has grain and pyarrow."""

IDS = tuple(f"c{number}" for number in range(26))
NUMBERS = tuple(f"n{number}" for number in range(13))
VOCABULARY, VALENCY = 200_000, 20
MEAN, SCALE = 1.5, 1.2
FILES, ROW_GROUP = 4, 16_384
RIVALS = {
    "torch DataLoader, rows": (TORCH_PYTHON, "torch-rows"),
    "torch DataLoader, whole row groups": (TORCH_PYTHON, "torch-columns"),
    "grain": (GRAIN_PYTHON, "grain"),
}
SLOW = {"torch-rows", "grain"}
OURS = {"emberay, encoded": "encoded", "emberay, padded arrays": "padded"}
WINDOW = 16_384
"""Rows in the rivals' shuffle windows."""
ROOT = Path(__file__).parents[1]
MOST_SECONDS = 600


def write_files(folder: Path, rows: int) -> list[str]:
    """The Parquet files, ids of Zipf distribution."""
    generator = np.random.default_rng(0)

    def ids(count: int) -> pa.Array:
        place = np.exp(generator.random(count) * np.log(VOCABULARY + 1.0))
        return pa.array(np.minimum(place.astype(np.int32) - 1, VOCABULARY - 1))

    files = []
    for number in range(FILES):
        share = rows // FILES
        lengths = generator.integers(0, VALENCY + 1, share)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        columns = {name: ids(share) for name in IDS}
        columns["history"] = pa.ListArray.from_arrays(offsets, ids(int(lengths.sum())))
        for name in NUMBERS:
            columns[name] = pa.array(generator.lognormal(1.0, 1.0, share).astype(np.float32))
        columns["label"] = pa.array((generator.random(share) < 0.25).astype(np.int8))
        files.append(str(folder / f"part-{number}.parquet"))
        pq.write_table(pa.table(columns), files[-1], row_group_size=ROW_GROUP)
    return files


def program() -> Any:
    """The same columns as a program of ours."""
    import jax
    import optax

    from kernels import SGDOptimizerSpec, TableSpec
    from workers import Feature, Ids, Lists, Number, Program
    from workers.programs.dlrm import RankingModel

    features = [Feature(name, name, Ids(name, VOCABULARY)) for name in IDS]
    features.append(
        Feature("history", "history", Lists(Ids("history", VOCABULARY), valency=VALENCY))
    )
    tables = [
        TableSpec(
            name=feature.name,
            vocabulary_size=VOCABULARY,
            embedding_dim=16,
            initializer=jax.nn.initializers.zeros,
            optimizer=SGDOptimizerSpec(0.1),
            combiner="sum",
        )
        for feature in features
    ]
    return Program(
        name="data",
        tables=tuple(tables),
        features=tuple(features),
        dense=tuple(Number(name, MEAN, SCALE, log=True) for name in NUMBERS),
        label="label",
        model=RankingModel(),
        optimizer=optax.sgd(0.1),
    )


def measure_ours(files: list[str], batch: int, *, encoding: bool) -> dict[str, Any]:
    """Rows and CPU seconds, the sum of the labels, and the busy seconds of every stage."""
    from workers.batches import CHUNK_STEPS, EncodedBatch, encode, raw_batches
    from workers.data.reader import ExampleReader
    from workers.data.sources import open_dataset
    from workers.pipeline import Pipeline
    from workers.planning import make_plan, order_for, planned_specs
    from workers.protocol import RunSpec, merge_observed

    folder = str(Path(files[0]).parent)
    made = program()
    run = RunSpec(
        program="", parameters={}, data=folder, run_folder="", batch_size=batch, epochs=1, seed=0,
        devices_per_host=1,
    )  # fmt: skip
    data = open_dataset(folder, "train", made.schema.columns)
    order = order_for(data, run)
    plan = make_plan(made, run, 1, None, None, 0)
    specs = planned_specs(made, plan)
    sample = raw_batches(order, ExampleReader(data, made.schema), (0, batch), 0, CHUNK_STEPS)
    observed = merge_observed(*(encode(raw, specs, plan).observed for raw in sample))
    plan = make_plan(made, run, 1, observed, None, 0)
    specs = planned_specs(made, plan)

    started, cpu = time.perf_counter(), time.process_time()
    reader = ExampleReader(data, made.schema)
    source = raw_batches(order, reader, (0, batch), 0, order.steps_per_epoch)
    stages = [("encode", lambda raw: encode(raw, specs, plan))] if encoding else []
    pipeline = Pipeline(source, stages)
    rows, clicks = 0, 0.0
    for item in pipeline:
        raw = item.raw if isinstance(item, EncodedBatch) else item
        clicks += float(raw.examples.labels.sum())
        rows += raw.global_examples
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    busy = {**pipeline.take_seconds(), **reader.take_seconds()}
    pipeline.close()
    return {
        "rows_per_second": rows / seconds,
        "cpu": 1e6 * cpu / rows,
        "clicks": clicks,
        "busy": busy,
    }


def run_command(command: list[str]) -> dict[str, Any]:
    """What a process prints as JSON, in its last line."""
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=MOST_SECONDS, cwd=ROOT
    )
    return json.loads(done.stdout.splitlines()[-1])


def write_settings(folder: Path, rows: int, batch: int) -> Path:
    """Files of so many rows, and the path of what the rivals are told of them."""
    folder.mkdir()
    told = {
        "files": write_files(folder, rows),
        "ids": IDS,
        "numbers": NUMBERS,
        "valency": VALENCY,
        "mean": MEAN,
        "scale": SCALE,
        "batch": batch,
        "window": WINDOW,
        "workers": os.cpu_count(),
    }
    path = folder / "settings.json"
    path.write_text(json.dumps(told))
    return path


def compare(rows: int, slow_rows: int, batch: int, rounds: int) -> list[list[Any]]:
    """One row of the table for each rival: its best over some rounds, in turns.

    Args:
        rows: Rows of the files.
        slow_rows: Rows of the files of rivals that go row by row.
        batch: Samples of a batch.
        rounds: How often each runs.
    """
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        all_rows = write_settings(Path(temporary) / "all", rows, batch)
        few_rows = write_settings(Path(temporary) / "few", slow_rows, batch)
        commands = {
            name: [sys.executable, "-m", "benchmarks.data", f"--ours={kind}", str(all_rows)]
            for name, kind in OURS.items()
        }
        for name, (variable, kind) in RIVALS.items():
            if python := os.environ.get(variable):
                settings = few_rows if kind in SLOW else all_rows
                script = str(Path(__file__).with_name("data_rivals.py"))
                commands[name] = [python, script, kind, str(settings)]
            else:
                print(f"{name} is left out: set {variable}\n")
        for _ in range(rounds):
            for name, command in commands.items():
                found = run_command(command)
                before = best.setdefault(name, found)
                cpu = min(before["cpu"], found["cpu"])
                if found["rows_per_second"] > before["rows_per_second"]:
                    best[name] = found
                best[name]["cpu"] = cpu
    check(best)
    for name in OURS:
        busy = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in best[name]["busy"].items())
        print(f"{name}, busy seconds: {busy}\n")
    encoded, padded = (best[name] for name in OURS)
    rows_of_table = []
    for name, found in best.items():
        ratios: list[Any] = ["-"] * 4
        if name in RIVALS:
            ratios = [
                ours["rows_per_second"] / found["rows_per_second"] for ours in (encoded, padded)
            ]
            ratios += [found["cpu"] / ours["cpu"] for ours in (encoded, padded)]
        rows_of_table.append([name, f"{found['rows_per_second']:,.0f}", found["cpu"], *ratios])
    return rows_of_table


def check(found: dict[str, dict[str, Any]]) -> None:
    """Whoever read the same files must have seen the same labels."""
    for slow in (False, True):
        clicks = {
            name: seen["clicks"]
            for name, seen in found.items()
            if (name in RIVALS and RIVALS[name][1] in SLOW) == slow
        }
        if len(set(clicks.values())) > 1:
            raise SystemExit(f"the rivals have read different rows: clicks {clicks}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the files")
    parser.add_argument("--slow-rows", type=int, default=100_000, help="of those row by row")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", choices=list(OURS.values()), help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="?", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        told = json.loads(Path(given.settings).read_text())
        encoding = given.ours == "encoded"
        print(json.dumps(measure_ours(told["files"], told["batch"], encoding=encoding)))
        return
    rows = compare(given.rows, given.slow_rows, given.batch, given.rounds)
    header = ["", "rows/s", "CPU s a million rows", "ours is faster by", "without encoding"]
    print(markdown_table([*header, "CPU ratio", "without encoding"], rows))


if __name__ == "__main__":
    main()
