"""Lookup and fused Adagrad update on the CPU, against plain XLA, torch and FBGEMM.

    uv run python -m benchmarks.kernels

Prints markdown. Torch and FBGEMM run in an environment of their own, which has Python 3.11:

    python3.11 -m venv /tmp/torch
    /tmp/torch/bin/python -m pip install torch==2.13.0 fbgemm-gpu-cpu==1.8.0 numpy
    EMBERAY_TORCH_PYTHON=/tmp/torch/bin/python uv run python -m benchmarks.kernels

(take a CPU build of torch). Without it, these two are left out. Everyone has the same ids and
gains; rivals start from ids, ours from the buffers that preprocessing made of them, so the time of
preprocessing one batch stands beside, and an update is given with it, as sorting is part of it.
Ours and one rival at a time hold their tables and run in turns, some runs each; the least time
counts, and the least CPU time of all threads. Plain XLA runs in our process, on our tables. Ours
moves its tables into huge pages; with ``--huge-pages`` torch and FBGEMM get the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kernel_workloads import RATE, Run, bytes_moved, memory_bandwidth
from benchmarks.preprocess_workloads import WORKLOADS, Workload
from benchmarks.rivals import TORCH_PYTHON, Rival, run_ours, torch_python
from benchmarks.timing import Timing, markdown_table
from benchmarks.turns import serve

TITLES = {"xla": "plain XLA", "torch": "torch EmbeddingBag", "fbgemm": "FBGEMM"}
PARTS = ("forward", "update", "update with sorting")
HEADER = ["workload", "rival", "", "wall ms", "ours", "ratio", "CPU ms", "ours", "ratio"]


def answer(workload: Workload) -> None:
    """Run ours and plain XLA when told to."""
    run = Run(workload)
    update, xla_update = run.update(), run.xla_update()

    def with_sorting() -> None:
        run.encode()
        update()

    measurements = {
        "forward": run.forward(),
        "update": update,
        "update with sorting": with_sorting,
        "xla forward": run.xla_forward(),
        "xla update": xla_update,
    }
    serve(
        {name: (lambda: None, lambda _, call=call: call()) for name, call in measurements.items()}
    )


def compare(number: int, rounds: int, tables: int | None, huge_pages: bool) -> list[list[Any]]:
    """Rows for each rival, and a line on memory."""
    workload = chosen(number, tables)
    words = (str(number), str(workload.tables))
    rows, least = [], {}
    with tempfile.TemporaryDirectory() as folder:
        arrays, settings = Path(folder) / "arrays.npz", Path(folder) / "settings.json"
        write_inputs(workload, arrays, settings, huge_pages)
        for kind in TITLES if torch_python() else ("xla",):
            with ExitStack() as stack:
                ours = stack.enter_context(Rival("benchmarks.kernels", "--worker", *words))
                given = (kind, str(arrays), str(settings))
                theirs = (
                    ours if kind == "xla" else stack.enter_context(Rival("torch_rivals.py", *given))
                )
                prefix = "xla " if kind == "xla" else ""
                # The same part of both one after another: what runs before leaves caches to it.
                turns = [
                    *((ours, "forward"), (theirs, f"{prefix}forward")),
                    *((ours, "update"), (theirs, f"{prefix}update")),
                    (ours, "update with sorting"),
                ]
                look, ahead, change, back, sort = measure(turns, rounds)
            least = dict(zip(PARTS, (look, change, sort), strict=True))
            for part, other in zip(PARTS, (ahead, back, back), strict=True):
                us = least[part]
                wall = [1e3 * other.wall, 1e3 * us.wall, other.wall / us.wall]
                cpu = [1e3 * other.cpu, 1e3 * us.cpu, other.cpu / us.cpu]
                rows.append([workload.name, TITLES[kind], part, *wall, *cpu])
    describe(workload, least, run_ours("benchmarks.kernels", "--sizes", *words))
    return rows


def measure(turns: list[tuple[Rival, str]], rounds: int) -> list[Timing]:
    """The least times of every measurement, one after another in every round."""
    for rival, name in turns:
        rival.measure(name)
    found = [[rival.measure(name) for rival, name in turns] for _ in range(rounds)]
    return [
        Timing(min(timing.wall for timing in column), min(timing.cpu for timing in column))
        for column in zip(*found, strict=True)
    ]


def describe(workload: Workload, least: dict[str, Timing], sizes: dict[str, float]) -> None:
    """Print the share of the memory's bandwidth."""
    forward_share, update_share = (
        sizes[part] / least[part].wall / sizes["bandwidth"] for part in PARTS[:2]
    )
    print(
        f"{workload.name}: memory moves {sizes['bandwidth'] / 1e9:.3g} GB/s in a copy, of which "
        f"forward uses {forward_share:.0%} and update {update_share:.0%}\n"
    )


def chosen(number: int, tables: int | None) -> Workload:
    workload = WORKLOADS[number]
    return dataclasses.replace(workload, tables=tables or workload.tables)


def write_inputs(workload: Workload, arrays: Path, settings: Path, huge_pages: bool) -> None:
    """Ids and final gains for the rivals in torch."""
    ids, gains = workload.dense
    content = {}
    for number, name in enumerate(ids):
        given = np.ones_like(ids[name], np.float32) if gains is None else gains[name]
        if workload.combiner == "mean":
            given = given / given.sum(axis=1, keepdims=True)
        content |= {f"ids{number}": ids[name], f"gains{number}": given}
    np.savez(arrays, **content)
    fields = ("tables", "rows", "width", "valency", "batch")
    known = {field: getattr(workload, field) for field in fields}
    settings.write_text(json.dumps(known | {"rate": RATE, "huge_pages": huge_pages}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of everyone")
    parser.add_argument("--tables", type=int, help="tables of a workload, to need less memory")
    parser.add_argument("--huge-pages", action="store_true", help="for the rivals' tables too")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer(chosen(*options.worker))
        return
    if options.sizes:
        forward, update = bytes_moved(chosen(*options.sizes))
        found = {"forward": forward, "update": update, "bandwidth": memory_bandwidth()}
        print(json.dumps(found))
        return
    if torch_python() is None:
        print(f"torch and FBGEMM are missing: {TORCH_PYTHON} names no Python that has them\n")
    rows = [
        row
        for number in range(len(WORKLOADS))
        for row in compare(number, options.rounds, options.tables, options.huge_pages)
    ]
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
