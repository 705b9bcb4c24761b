"""What pipelining gains on the CPU: a DLRM's steps with and without it, on 1 and 4 devices.

    uv run python -m benchmarks.pipelining

Prints markdown: the time of a step whose lookup, dense part and update follow each other, that of
a call of `kernels.pipelining.step`, and that of both parts alone. The devices of a CPU share its
cores, and so do the stages: no second unit stands idle without pipelining, as one does on a TPU.
The least a step can take is thus the sum of its parts, not the longer of them.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import kernels
from benchmarks.dense_layers import ACCUMULATOR, dense_inputs, make_parameters, make_update
from benchmarks.preprocess_workloads import SPARSECORES, WORKLOADS, Placed, Workload
from benchmarks.rivals import run_ours
from benchmarks.timing import markdown_table, measure
from kernels import pipelining

DEVICES = (1, 4)
HEADER = ["workload", "devices", "", "one after another", "pipelined", "ratio"]
HEADER += ["lookup and update alone", "dense part alone"]


class Loops:
    """One batch trained on again and again, with shared tables and layers."""

    def __init__(self, workload: Workload, devices: int) -> None:
        mesh = jax.make_mesh((devices,), ("devices",), devices=jax.devices()[:devices])
        over, everywhere = (NamedSharding(mesh, PartitionSpec(*p)) for p in (("devices",), ()))
        placed = Placed.of(workload, devices)
        encoded, _ = placed.run_ours(*workload.dense)()
        self.batch = pipelining.CurrentStepInput(
            jax.device_put(encoded, over), jax.device_put(dense_inputs(workload), over)
        )
        self.tables = _tables(placed, NamedSharding(mesh, PartitionSpec("devices", None)))
        start, update = make_update()
        self.state = jax.device_put(start(make_parameters(workload)), everywhere)

        def model(
            embedding_activations: Any, dense_inputs: Any, train_state: Any, sc_fwd_aux: Any = None
        ) -> Any:
            del sc_fwd_aux
            state, gradients, loss = update(train_state, embedding_activations, *dense_inputs)
            return gradients, loss, state, None

        look_up = pipelining.get_default_sc_fwd_function(placed.ours, mesh, SPARSECORES)
        change = pipelining.get_default_sc_bwd_function(placed.ours, mesh, SPARSECORES)

        def plain(batch: Any, state: Any, tables: Any) -> Any:
            activations, _ = look_up(batch.sparse_inputs, tables)
            gradients, loss, state, _ = model(activations, batch.dense_inputs, state)
            return loss, state, change(batch.sparse_inputs, gradients, tables)[0]

        self._plain = jax.jit(plain, donate_argnums=(1, 2))
        self._pipelined = jax.jit(
            functools.partial(
                pipelining.step,
                sc_fwd_function=look_up,
                tc_function=model,
                sc_bwd_function=change,
                fake_tc_step=False,
            ),
            donate_argnums=(1, 2, 3),
        )
        self._look_up, self._change = jax.jit(look_up), jax.jit(change, donate_argnums=2)
        self._model = jax.jit(model, donate_argnums=2)
        self.pipeline = pipelining.get_initial_state(
            self.batch, self.state, self.tables, look_up, model, over, over
        )
        self.activations, _ = self._look_up(self.batch.sparse_inputs, self.tables)

    def plain(self) -> None:
        """Lookup, dense part and update, one after another."""
        _, self.state, self.tables = jax.block_until_ready(
            self._plain(self.batch, self.state, self.tables)
        )

    def pipelined(self) -> None:
        """A call in the middle of a run: each stage on a batch of its own."""
        _, _, self.state, self.tables, self.pipeline = jax.block_until_ready(
            self._pipelined(self.batch, self.state, self.tables, self.pipeline)
        )

    def embedding(self) -> None:
        """Lookup and update alone."""
        activations, _ = jax.block_until_ready(self._look_up(self.batch.sparse_inputs, self.tables))
        self.tables, _ = jax.block_until_ready(
            self._change(self.batch.sparse_inputs, activations, self.tables)
        )

    def dense(self) -> None:
        """The dense part alone."""
        _, _, self.state, _ = jax.block_until_ready(
            self._model(self.activations, self.batch.dense_inputs, self.state)
        )


def _tables(placed: Placed, sharding: NamedSharding) -> dict[str, kernels.EmbeddingVariables]:
    """Random tables and full accumulators, in the shapes of the plan."""
    shapes = {
        spec.table_spec.setting_in_stack.stack_name: (
            spec.table_spec.stacked_table_spec.stack_vocab_size,
            spec.table_spec.stacked_table_spec.stack_embedding_dim,
        )
        for spec in placed.ours.values()
    }

    @functools.partial(jax.jit, static_argnums=1, out_shardings=sharding)
    def fill(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        return jax.random.uniform(key, shape) - 0.5

    full = jax.jit(
        lambda shape: jnp.full(shape, ACCUMULATOR), static_argnums=0, out_shardings=sharding
    )
    return {
        name: kernels.EmbeddingVariables(fill(jax.random.key(number), shape), (full(shape),))
        for number, (name, shape) in enumerate(shapes.items())
    }


def measure_here(workload: Workload, devices: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of both loops and of the parts, in turns."""
    jax.config.update("jax_num_cpu_devices", devices)
    loops = Loops(workload, devices)
    runs: dict[str, Callable[[], Any]] = {
        name: getattr(loops, name) for name in ("plain", "pipelined", "embedding", "dense")
    }
    times = measure(runs, rounds=rounds)
    return {name: (timing.wall, timing.cpu) for name, timing in times.items()}


def compare(number: int, devices: int, turns: int, rounds: int) -> list[list[Any]]:
    """A row of wall and a row of CPU time."""
    words = ("--worker", str(number), str(devices), str(rounds))
    runs = [run_ours("benchmarks.pipelining", *words) for _ in range(turns)]
    rows = []
    for place, title in enumerate(("wall ms", "CPU ms")):
        least = {name: 1e3 * min(run[name][place] for run in runs) for name in runs[0]}
        plain, pipelined = least["plain"], least["pipelined"]
        row = [WORKLOADS[number].name, devices, title, plain, pipelined, pipelined / plain]
        rows.append([*row, least["embedding"], least["dense"]])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="processes of each")
    parser.add_argument("--rounds", type=int, default=10, help="steps in a process")
    parser.add_argument("--workload", type=int, help="0 or 1; both if left out")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        number, devices, rounds = map(int, options.worker)
        print(json.dumps(measure_here(WORKLOADS[number], devices, rounds)))
        return
    numbers = range(len(WORKLOADS)) if options.workload is None else [options.workload]
    rows = [
        row
        for number in numbers
        for devices in DEVICES
        for row in compare(number, devices, options.turns, options.rounds)
    ]
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
