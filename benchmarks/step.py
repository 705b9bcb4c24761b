"""One training step of a DLRM on the CPU, ours on one device against the same model in torch.

    EMBERAY_TORCH_PYTHON=/tmp/torch/bin/python uv run python -m benchmarks.step

Prints markdown: for both workloads, wall and CPU time of a step, of its dense part alone and of its
embedding part alone, and examples a second. Both sides start from the same tables and layers, and
the benchmark fails if their first losses differ. Ours is timed from the buffers of preprocessing,
which runs ahead of the steps in a training run, and with preprocessing inside. How to make the
Python for torch is written in `benchmarks.kernels`; without it ours runs alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import kernels
from benchmarks.dense_layers import ACCUMULATOR, dense_inputs, make_parameters, make_update
from benchmarks.kernel_workloads import Run
from benchmarks.kernels import chosen, write_inputs
from benchmarks.preprocess_workloads import WORKLOADS, Workload
from benchmarks.rivals import TORCH_PYTHON, run_ours, run_torch, torch_python
from benchmarks.timing import markdown_table, measure

LOSSES = 5
TOLERANCE = 1e-3
"""Of the losses, relative: sums run in another order on either side."""
TITLES = {
    "step": "step",
    "dense": "dense part",
    "embedding": "embedding part",
    "whole": "step and preprocessing",
}
HEADER = ["workload", "", "wall ms", "torch", "ratio", "CPU ms", "torch", "ratio"]
HEADER += ["examples a second", "torch"]


class Training:
    """A model on one device; parameters, optimizer and tables are donated from step to step."""

    def __init__(self, workload: Workload) -> None:
        self.run = Run(workload)
        # What torch_step.py fills its tables with; a table has some rows more than its vocabulary.
        for number, name in enumerate(sorted(self.run.tables)):
            shape = self.run.tables[name].table.shape
            values = np.random.default_rng(number).random((workload.rows, shape[1]), np.float32)
            values = np.pad(values - 0.5, ((0, shape[0] - workload.rows), (0, 0)))
            table = jnp.array(values)
            self.run.tables[name] = kernels.EmbeddingVariables(table, self.run.tables[name].slot)
        self.start, update = make_update()
        self.state = self.start(make_parameters(workload))
        self.given = jax.device_put(dense_inputs(workload))
        options: dict[str, Any] = {"feature_specs": self.run.placed, "num_sc_per_device": 1}
        look_up = functools.partial(
            kernels.tpu_sparse_dense_matmul, global_device_count=1, **options
        )
        back = functools.partial(kernels.tpu_sparse_dense_matmul_grad, **options)

        def step(state: Any, tables: Any, batch: Any, dense: Any, labels: Any) -> Any:
            activations = look_up(batch, tables)
            state, gradients, loss = update(state, activations, dense, labels)
            return state, back(gradients, batch, tables), loss

        self._step = jax.jit(step, donate_argnums=(0, 1))
        self._dense = jax.jit(update, donate_argnums=0)
        self._look_up, self._back = self.run.forward(), self.run.update()

    def step(self) -> jax.Array:
        """The whole, from preprocessed buffers."""
        self.state, self.run.tables, loss = jax.block_until_ready(
            self._step(self.state, self.run.tables, self.run.batch, *self.given)
        )
        return loss

    def whole(self) -> None:
        """Preprocessing of the batch, and a step."""
        self.run.batch = jax.device_put(self.run.encode())
        self.step()

    def dense(self) -> None:
        """From activations to their gradients."""
        self.state, *_ = jax.block_until_ready(
            self._dense(self.state, self.run.gradients, *self.given)
        )

    def embedding(self) -> None:
        """Lookup, and update with gradients at hand."""
        self._look_up()
        self._back()


def measure_here(workload: Workload, rounds: int) -> dict[str, Any]:
    """First losses, and wall and CPU seconds by part, of ours."""
    training = Training(workload)
    losses = [float(training.step()) for _ in range(LOSSES)]
    runs: dict[str, Callable[[], Any]] = {name: getattr(training, name) for name in TITLES}
    times = measure(runs, rounds=rounds)
    return {"losses": losses, "seconds": {name: (t.wall, t.cpu) for name, t in times.items()}}


def write_model(workload: Workload, arrays: Path, settings: Path, rounds: int) -> None:
    """Ids, dense features, labels and layers for torch."""
    write_inputs(workload, arrays, settings, rounds)
    with np.load(arrays) as known:
        content = dict(known)
    content["dense"], content["labels"] = dense_inputs(workload)
    for name, layers in zip(("bottom", "top"), make_parameters(workload), strict=True):
        for number, (weight, bias) in enumerate(layers):
            content |= {f"{name}{number} weight": weight, f"{name}{number} bias": bias}
    np.savez(arrays, **content)
    more = {"losses": LOSSES, "accumulator": ACCUMULATOR}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | more))


def compare(number: int, turns: int, rounds: int) -> list[list[Any]]:
    """One row for each part; raises if the models differ."""
    workload = chosen(number, None)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        arrays, settings = Path(folder) / "arrays.npz", Path(folder) / "settings.json"
        write_model(workload, arrays, settings, rounds)
        for _ in range(turns):
            ours.append(run_ours("benchmarks.step", "--worker", str(number), str(rounds)))
            if torch_python():
                theirs.append(run_torch("step", arrays, settings, script="torch_step.py"))
    print(f"{workload.name}: losses {_losses(ours)}", end="")
    if theirs:
        print(f", torch {_losses(theirs)}", end="")
        np.testing.assert_allclose(ours[0]["losses"], theirs[0]["losses"], rtol=TOLERANCE)
    print("\n")
    rows: list[list[Any]] = []
    for part, title in TITLES.items():
        wall, cpu = _least(ours, part)
        row = [workload.name, title, 1e3 * wall, "", "", 1e3 * cpu, "", "", workload.batch / wall]
        if theirs:
            other_wall, other_cpu = _least(theirs, "step" if part == "whole" else part)
            row[3:5] = 1e3 * other_wall, other_wall / wall
            row[6:8] = 1e3 * other_cpu, other_cpu / cpu
            row.append(workload.batch / other_wall)
        rows.append(row)
    return rows


def _losses(runs: list[dict[str, Any]]) -> str:
    return ", ".join(f"{loss:.5f}" for loss in runs[0]["losses"])


def _least(runs: list[dict[str, Any]], part: str) -> tuple[float, float]:
    walls, cpus = zip(*(run["seconds"][part] for run in runs), strict=True)
    return min(walls), min(cpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="processes of each")
    parser.add_argument("--rounds", type=int, default=10, help="steps in a process")
    parser.add_argument("--workload", type=int, help="0 or 1; both if left out")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        number, rounds = map(int, options.worker)
        print(json.dumps(measure_here(chosen(number, None), rounds)))
        return
    if torch_python() is None:
        print(f"torch is missing: {TORCH_PYTHON} names no Python that has it\n")
    numbers = range(len(WORKLOADS)) if options.workload is None else [options.workload]
    rows = [row for n in numbers for row in compare(n, options.turns, options.rounds)]
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
