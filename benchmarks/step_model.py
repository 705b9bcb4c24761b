"""How far the step-time model of ``plan`` is off, where it can be measured: on this CPU.

    uv run python -m benchmarks.step_model

The same functions that `plan` calls get this machine's copy bandwidth in place of a chip's: bytes
that lookup, exchange and update move for one real batch, over the bytes that adding 1 to a large
array moves in a second. Virtual devices have equal shares of it, and what one sends another is
copied once: read and written. Beside it, the time that the CPU backend takes for lookup and update,
the least of some rounds. Bandwidth and times are measured in turns in one process, so that a busy
machine slows both.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import kernels
from benchmarks.preprocess_workloads import SPARSECORES, WORKLOADS, Placed, Workload
from benchmarks.rivals import run_ours
from benchmarks.timing import markdown_table, measure
from kernels import pipelining
from kernels.planning.traffic import Traffic, stack_traffic
from kernels.preprocessing.asked_rows import asked_rows
from kernels.preprocessing.encoded import ProcessShape
from orchestrator.step_time import Speeds, StepTime, step_time
from workers.data.demand import DemandCounts
from workers.dense_cost import DenseCost

DEVICES = (1, 4)
COPIED_FLOATS, COPIES = 2**26, 4
"""So many that they take about as long as what they are compared with."""
CASES = (
    WORKLOADS[0],
    dataclasses.replace(WORKLOADS[0], name="26 × 200k rows of 16, valency 1", width=16),
    dataclasses.replace(WORKLOADS[1], name="8 × 250k rows of 128, valency 20, gains", rows=250_000),
)
PARTS = ("lookup", "update", "both")
HEADER = ["workload", "devices", "GB/s", "", "predicted ms", "measured ms", "ratio"]


class Embedding:
    """Lookup and update of one batch again and again, on virtual devices of this CPU."""

    def __init__(self, workload: Workload, devices: int) -> None:
        mesh = jax.make_mesh((devices,), ("devices",), devices=jax.devices()[:devices])
        over = NamedSharding(mesh, PartitionSpec("devices"))
        placed = Placed.of(workload, devices)
        encoded, _ = placed.run_ours(*workload.dense)()
        self.topology = kernels.Topology(1, devices, SPARSECORES)
        self.plan = kernels.build_plan(workload.specs(), self.topology, batch_size=workload.batch)
        self.batch = encoded
        self._on_devices = jax.device_put(encoded, over)
        fill = functools.partial(jax.jit, static_argnums=0, out_shardings=over)
        self._tables = {
            stack.name: kernels.EmbeddingVariables(
                fill(lambda shape: jnp.full(shape, 0.5))((stack.vocab_size, stack.width)),
                (fill(lambda shape: jnp.full(shape, 0.1))((stack.vocab_size, stack.width)),),
            )
            for stack in self.plan.stacks
        }
        look_up = pipelining.get_default_sc_fwd_function(placed.ours, mesh, SPARSECORES)
        change = pipelining.get_default_sc_bwd_function(placed.ours, mesh, SPARSECORES)
        self._look_up, self._change = jax.jit(look_up), jax.jit(change, donate_argnums=2)
        self._activations, _ = self._look_up(self._on_devices, self._tables)

    def lookup(self) -> None:
        """Activations of the batch."""
        jax.block_until_ready(self._look_up(self._on_devices, self._tables))

    def update(self) -> None:
        """One step of Adagrad, with the activations for gradients."""
        self._tables, _ = jax.block_until_ready(
            self._change(self._on_devices, self._activations, self._tables)
        )

    def traffic(self) -> Traffic:
        """What the model says of this batch."""
        devices = self.topology.devices
        shape = ProcessShape(devices, devices, SPARSECORES)
        found = Traffic()
        for stack in self.plan.stacks:
            counts = DemandCounts(self.topology)
            counts.add([asked_rows(self.batch, stack.name, shape)])
            found += stack_traffic(stack, self.topology, counts.mean(1))
        return found


def predicted(traffic: Traffic, devices: int, bandwidth: float) -> StepTime:
    """The model's time on a machine of this copy bandwidth, in bytes read and written a second."""
    own = bandwidth / devices
    speeds = Speeds(memory=own, exchange=own / 2, sums=float("inf"), operations=float("inf"))
    return step_time(traffic, DenseCost(0.0, 0), speeds)


def measure_here(workload: Workload, devices: int, rounds: int) -> dict[str, Any]:
    """Bandwidth, and predicted and measured seconds of every part."""
    jax.config.update("jax_num_cpu_devices", devices)
    embedding = Embedding(workload, devices)
    copied = jnp.zeros(COPIED_FLOATS, jnp.float32)
    add = jax.jit(lambda array: array + 1, donate_argnums=0)

    def copy() -> None:
        nonlocal copied
        for _ in range(COPIES):
            copied = add(copied)
        jax.block_until_ready(copied)

    runs = {"copy": copy, "lookup": embedding.lookup, "update": embedding.update}
    times = {name: timing.wall for name, timing in measure(runs, rounds=rounds).items()}
    bandwidth = 2 * COPIES * copied.nbytes / times["copy"]
    time = predicted(embedding.traffic(), devices, bandwidth)
    return {
        "bandwidth": bandwidth,
        # Rows come back in the lookup, gradients go there in the update: as much, but for ids.
        "predicted": {
            "lookup": time.lookup + time.exchange / 2,
            "update": time.update + time.exchange / 2,
            "both": time.embedding,
        },
        "measured": {name: times[name] for name in PARTS[:2]}
        | {"both": times["lookup"] + times["update"]},
    }


def compare(number: int, devices: int, rounds: int) -> list[list[Any]]:
    """The rows of one case: of the lookup, the update, and both."""
    words = ("--worker", str(number), str(devices), str(rounds))
    found = run_ours("benchmarks.step_model", *words)
    rows = []
    for part in PARTS:
        said, took = found["predicted"][part], found["measured"][part]
        row = [CASES[number].name, devices, found["bandwidth"] / 1e9, part]
        rows.append([*row, 1e3 * said, 1e3 * took, took / said])
    return rows


def main() -> None:
    """Measure all cases, and print a table and the range of the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="runs of each; the least counts")
    parser.add_argument("--worker", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        number, devices, rounds = options.worker
        print(json.dumps(measure_here(CASES[number], devices, rounds)))
        return
    rows = [
        row
        for number in range(len(CASES))
        for devices in DEVICES
        for row in compare(number, devices, options.rounds)
    ]
    print(markdown_table(HEADER, rows))
    ratios = [row[-1] for row in rows if row[3] == "both"]
    print(f"\nmeasured over predicted, both: {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
