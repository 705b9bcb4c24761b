"""Lookup and fused Adagrad update on the CPU, against plain XLA, torch and FBGEMM.

    uv run python -m benchmarks.kernels

Prints markdown. Torch and FBGEMM run in an environment of their own, which has Python 3.11:

    python3.11 -m venv /tmp/torch
    /tmp/torch/bin/python -m pip install torch==2.13.0 fbgemm-gpu-cpu==1.8.0 numpy
    EMBERAY_TORCH_PYTHON=/tmp/torch/bin/python uv run python -m benchmarks.kernels

(take a CPU build of torch). Without it, these two are left out. Everyone has the same ids and
gains; rivals start from ids, ours from the buffers that preprocessing made of them, so the time of
preprocessing one batch stands beside, and an update is given with it, as sorting is part of it.
Every rival runs several times, in turns; the least time counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kernel_workloads import RATE, Run, memory_bandwidth
from benchmarks.preprocess_workloads import WORKLOADS, Workload
from benchmarks.rivals import TORCH_PYTHON, run_ours, run_torch, torch_python
from benchmarks.timing import markdown_table, measure

RIVALS = ("torch", "fbgemm")
TITLES = {"xla": "plain XLA", "torch": "torch EmbeddingBag", "fbgemm": "FBGEMM"}
HEADER = ["workload", "rival", "forward ms", "ours", "ratio", "update ms", "ours", "with sorting"]
HEADER += ["ratio", "ratio with sorting"]


def measure_here(workload: Workload, rounds: int) -> dict[str, float]:
    """Seconds of ours and of plain XLA, in turns on the same tables."""
    run = Run(workload)
    times = measure(
        {
            "forward": run.forward(),
            "xla forward": run.xla_forward(),
            "update": run.update(),
            "xla update": run.xla_update(),
            "sorting": run.encode,
        },
        rounds=rounds,
    )
    moved = dict(zip(("forward bytes", "update bytes"), run.bytes_moved(), strict=True))
    seconds = {name: timing.wall for name, timing in times.items()}
    return seconds | moved | {"bandwidth": memory_bandwidth()}


def compare(number: int, turns: int, rounds: int, tables: int | None) -> list[list[Any]]:
    """One row for each rival, and a line on memory."""
    workload = chosen(number, tables)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        arrays, settings = Path(folder) / "arrays.npz", Path(folder) / "settings.json"
        write_inputs(workload, arrays, settings, rounds)
        for _ in range(turns):
            words = (str(number), str(rounds), str(workload.tables))
            keep_least(found, "ours", run_ours("benchmarks.kernels", "--worker", *words))
            for rival in RIVALS if torch_python() else ():
                keep_least(found, rival, run_torch(rival, arrays, settings))
    ours = found["ours"]
    found["xla"] = {"forward": ours["xla forward"], "update": ours["xla update"]}
    rows = []
    for rival in ("xla", *RIVALS):
        if rival not in found:
            continue
        ahead, back = found[rival]["forward"], found[rival]["update"]
        whole = ours["update"] + ours["sorting"]
        rows.append(
            [
                workload.name,
                TITLES[rival],
                1e3 * ahead,
                1e3 * ours["forward"],
                ahead / ours["forward"],
                1e3 * back,
                1e3 * ours["update"],
                1e3 * whole,
                back / ours["update"],
                back / whole,
            ]
        )
    forward_share, update_share = (
        ours[f"{part} bytes"] / ours[part] / ours["bandwidth"] for part in ("forward", "update")
    )
    print(
        f"{workload.name}: preprocessing a batch {1e3 * ours['sorting']:.3g} ms; memory moves "
        f"{ours['bandwidth'] / 1e9:.3g} GB/s in a copy, of which forward uses "
        f"{forward_share:.0%} and update {update_share:.0%}\n"
    )
    return rows


def chosen(number: int, tables: int | None) -> Workload:
    workload = WORKLOADS[number]
    return dataclasses.replace(workload, tables=tables or workload.tables)


def write_inputs(workload: Workload, arrays: Path, settings: Path, rounds: int) -> None:
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
    settings.write_text(json.dumps(known | {"rate": RATE, "rounds": rounds}))


def keep_least(found: dict[str, dict[str, float]], name: str, new: dict[str, float]) -> None:
    """The least seconds so far; of the bandwidth, the most."""
    known = found.setdefault(name, dict(new))
    for key, value in new.items():
        better = max if key == "bandwidth" else min
        known[key] = better(known[key], value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="processes of every rival")
    parser.add_argument("--rounds", type=int, default=10, help="measurements in a process")
    parser.add_argument("--tables", type=int, help="tables of a workload, to need less memory")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        number, rounds, tables = map(int, options.worker)
        print(json.dumps(measure_here(chosen(number, tables), rounds)))
        return
    if torch_python() is None:
        print(f"torch and FBGEMM are missing: {TORCH_PYTHON} names no Python that has them\n")
    rows = [
        row
        for number in range(len(WORKLOADS))
        for row in compare(number, options.turns, options.rounds, options.tables)
    ]
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
