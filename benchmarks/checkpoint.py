"""What an asynchronous checkpoint costs: the step's wait, host memory, checksums.

    uv run python -m benchmarks.checkpoint --processes 2 --gibibytes 1

Tables with Adagrad's slot variables of so many GiB are spread over the processes, with two virtual
devices each, and saved by `workers.checkpoint.Checkpoints` as a run does it. Figures of every save,
the worst of the processes:

- stall: seconds from the call to save until the next step is done, less a usual step. The step
  updates rows in place, with the state donated; so it would pay for a table that it may not touch.
- write: seconds from the call until the checkpoint is committed, checksums included.
- memory: most resident memory over the save beyond that before the first, over this process's share
  of the state.
- checksums: seconds to compute them over the committed files, each process over those it has
  written, which is part of ``write``; and to verify them, before a restore.

Random tables: they compress by a tenth only, as trained ones do.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import markdown_table

DEVICES = 2
WIDTH = 64
TIMEOUT_SECONDS = 900
COLUMNS = {
    "stall": "stall s",
    "write": "write s",
    "ratio": "stall / write",
    "memory": "memory / share",
    "checksums": "checksums s",
    "verify": "verify s",
}


def main() -> None:
    """Start the processes, and print a line for every save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--gibibytes", type=float, default=1.0, help="of tables and slots, in all")
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None, help="where to save; emptied after")
    parser.add_argument("--rank", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        print(json.dumps(saves(arguments)))
        return
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        report(lead(arguments, folder))
    finally:
        shutil.rmtree(folder)


def lead(arguments: argparse.Namespace, folder: Path) -> list[list[dict[str, float]]]:
    """Run all processes; returns the figures of every save by process."""
    from workers.mesh import free_address

    coordinator = free_address("127.0.0.1")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
    }
    command = [sys.executable, "-m", "benchmarks.checkpoint", "--folder", str(folder)]
    command += ["--coordinator", coordinator]
    for name in ("processes", "gibibytes", "saves"):
        command += [f"--{name}", str(getattr(arguments, name))]
    started = [
        subprocess.Popen(
            [*command, "--rank", str(rank)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for rank in range(arguments.processes)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        raise SystemExit("a process failed: its error is above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def saves(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """What one process sees of every save."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import multihost_utils

    from kernels import (
        AdagradOptimizerSpec,
        FeatureSpec,
        TableSpec,
        Topology,
        build_plan,
        initialize_tables,
    )
    from workers.checkpoint import About, Checkpoints
    from workers.checksums import verify_files, write_part
    from workers.mesh import everywhere, join_process_group, make_mesh
    from workers.training import TrainState

    join_process_group(arguments.coordinator, arguments.rank, arguments.processes, 120)
    mesh = make_mesh()
    rows = int(arguments.gibibytes * 2**30) // (2 * WIDTH * 4)
    table = TableSpec(
        name="table",
        vocabulary_size=rows,
        embedding_dim=WIDTH,
        initializer=jax.nn.initializers.normal(1.0),
        optimizer=AdagradOptimizerSpec(learning_rate=0.1),
        combiner="sum",
    )
    batch = 64 * mesh.size
    feature = FeatureSpec(
        name="feature", table_spec=table, input_shape=(batch, 1), output_shape=(batch, WIDTH)
    )
    topology = Topology(arguments.processes, DEVICES, 1)
    plan = build_plan([feature], topology, batch_size=batch, stack=True)

    def filled(tables: Any) -> Any:
        return jax.tree.map(
            lambda one: one + jax.random.normal(jax.random.key(1), one.shape, one.dtype), tables
        )

    tables = jax.jit(filled, donate_argnums=0)(
        initialize_tables(plan, {"feature": feature}, mesh, 0)
    )
    small = jax.jit(lambda: jnp.zeros(8), out_shardings=everywhere(mesh))
    step_number = jax.jit(lambda: jnp.int32(1), out_shardings=everywhere(mesh))
    step = jax.jit(
        lambda tables: jax.tree.map(lambda one: one.at[0].add(1.0), tables), donate_argnums=0
    )
    usual = []
    for _ in range(5):
        start = time.perf_counter()
        tables = jax.block_until_ready(step(tables))
        usual.append(time.perf_counter() - start)
    share = sum(
        shard.data.nbytes for one in jax.tree.leaves(tables) for shard in one.addressable_shards
    )
    checkpoints = Checkpoints(arguments.folder, About(plan, "benchmark"))
    before = memory("VmRSS")
    # A run has trained for a while when it saves for the first time.
    checkpoints.reserve(TrainState(step_number(), tables, small(), small()))
    time.sleep(arguments.gibibytes * 5 / arguments.processes)
    figures = []
    for number in range(1, arguments.saves + 1):
        state = TrainState(step_number(), tables, small(), small())
        jax.block_until_ready(state)
        multihost_utils.sync_global_devices(f"save {number}")
        forget_peak()
        start = time.perf_counter()
        checkpoints.save(number, state)
        del state
        tables = jax.block_until_ready(step(tables))
        stall = time.perf_counter() - start - statistics.median(usual)
        checkpoints.wait()
        write = time.perf_counter() - start
        seen = {"stall": stall, "write": write, "memory": (memory("VmHWM") - before) / share}
        folder, share_of = arguments.folder / str(number), (arguments.rank, arguments.processes)
        for name, run in (("checksums", write_part), ("verify", verify_files)):
            multihost_utils.sync_global_devices(f"{name} {number}")
            seen[name] = seconds_of(functools.partial(run, folder, *share_of))
        multihost_utils.sync_global_devices(f"remove {number}")
        if arguments.rank == 0:
            shutil.rmtree(folder)
        figures.append(seen)
    checkpoints.close()
    return figures


def seconds_of(run: Any) -> float:
    """Wall seconds of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def memory(name: str) -> int:
    """Bytes of this process by name in Linux's ``/proc/self/status``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}: this benchmark needs Linux")


def forget_peak() -> None:
    """Let ``VmHWM`` begin anew at the memory of this moment."""
    Path("/proc/self/clear_refs").write_text("5")


def report(by_process: list[list[dict[str, float]]]) -> None:
    """A table of all saves, and the ratios with their goals."""
    every = [
        {name: max(seen.get(name, 0.0) for seen in one_save) for name in one_save[0]}
        for one_save in zip(*by_process, strict=True)
    ]
    for seen in every:
        seen["ratio"] = seen["stall"] / seen["write"]
    rows = [[number, *map(seen.get, COLUMNS)] for number, seen in enumerate(every, start=1)]
    print(markdown_table(["save", *COLUMNS.values()], rows))
    later = every[1:] or every
    stall = statistics.median(seen["ratio"] for seen in later)
    most = max(seen["memory"] for seen in every)
    print(f"stall / write, median of the saves after the first: {stall:.3f} (goal: below 0.1)")
    print(f"host memory / share, the most: {most:.2f} (goal: well below 2)")


if __name__ == "__main__":
    main()
