"""One training step of a DLRM on the CPU, ours on one device against the same model in torch.

    EMBERAY_TORCH_PYTHON=/tmp/torch/bin/python uv run python -m benchmarks.step

Prints markdown: examples a second of both. The model: dense features through a stack of layers, a
lookup in every table, all dot products, another stack of layers; Adagrad for tables and layers. How
to make the Python for torch is written in `benchmarks.kernels`; without it ours runs alone. A step
of ours starts from the buffers of preprocessing, which run ahead of it in a run; their time is
given, and a ratio with it.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import kernels
from benchmarks.kernel_workloads import RATE, Run
from benchmarks.kernels import chosen, keep_least, write_inputs
from benchmarks.rivals import TORCH_PYTHON, run_ours, run_torch, torch_python
from benchmarks.timing import markdown_table, measure

WORKLOAD = 0
DENSE, BOTTOM, TOP = 13, (256, 128), (256, 128)


def make_layers(key: jax.Array, sizes: Sequence[int]) -> list[tuple[jax.Array, jax.Array]]:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (before, after)) / np.sqrt(before), jnp.zeros(after))
        for k, (before, after) in zip(keys, itertools.pairwise(sizes), strict=True)
    ]


def apply_layers(layers: Any, x: jax.Array, *, last_relu: bool) -> jax.Array:
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if last_relu or number < len(layers) - 1:
            x = jax.nn.relu(x)
    return x


def our_step(run: Run, dense: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """One step, with parameters, optimizer and tables donated."""
    width, tables = run.workload.width, run.workload.tables
    pairs = (tables + 1) * tables // 2
    first, second = jax.random.split(jax.random.key(0))
    parameters = (
        make_layers(first, [DENSE, *BOTTOM, width]),
        make_layers(second, [width + pairs, *TOP, 1]),
    )
    optimizer = optax.adagrad(RATE)
    upper = np.flatnonzero(np.triu(np.ones((tables + 1, tables + 1)), 1))
    options: dict[str, Any] = {"feature_specs": run.placed, "num_sc_per_device": 1}

    def loss(parameters: Any, activations: Any, dense: jax.Array, labels: jax.Array) -> jax.Array:
        low = apply_layers(parameters[0], dense, last_relu=True)
        stacked = jnp.stack([low, *activations.values()], axis=1)
        products = jnp.einsum("btw,bsw->bts", stacked, stacked).reshape(low.shape[0], -1)
        # Every pair is there twice, and every vector with itself: the weights of those are 0. That
        # is quicker than picking the others out.
        (weight, bias), *rest = parameters[1]
        wide = jnp.zeros((products.shape[1], weight.shape[1])).at[upper].set(weight[width:])
        joined = jax.nn.relu(low @ weight[:width] + products @ wide + bias)
        logits = apply_layers(rest, joined, last_relu=False)[:, 0]
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: Any, dense: jax.Array, labels: jax.Array) -> Any:
        parameters, memory, tables = state
        activations = kernels.tpu_sparse_dense_matmul(
            batch, tables, global_device_count=1, **options
        )
        gradients, back = jax.grad(loss, (0, 1))(parameters, activations, dense, labels)
        changes, memory = optimizer.update(gradients, memory)
        parameters = optax.apply_updates(parameters, changes)
        tables = kernels.tpu_sparse_dense_matmul_grad(back, batch, tables, **options)
        return parameters, memory, tables

    state = (parameters, optimizer.init(parameters), run.tables)
    given = jax.device_put((dense, labels))

    def one() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, run.batch, *given))

    return one


def dense_inputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    batch = chosen(WORKLOAD, None).batch
    dense = rng.normal(size=(batch, DENSE)).astype(np.float32)
    return dense, rng.integers(0, 2, batch).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="processes of each")
    parser.add_argument("--rounds", type=int, default=10, help="steps in a process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    workload = chosen(WORKLOAD, None)
    if options.worker:
        run = Run(workload)
        rivals = {"step": our_step(run, *dense_inputs()), "sorting": run.encode}
        times = measure(rivals, rounds=options.rounds)
        print(json.dumps({name: timing.wall for name, timing in times.items()}))
        return
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        arrays, settings = Path(folder) / "arrays.npz", Path(folder) / "settings.json"
        write_inputs(workload, arrays, settings, options.rounds)
        with np.load(arrays) as known:
            content = dict(known)
        content["dense"], content["labels"] = dense_inputs()
        np.savez(arrays, **content)
        layers = {"bottom": BOTTOM, "top": TOP}
        settings.write_text(json.dumps(json.loads(settings.read_text()) | layers))
        for _ in range(options.turns):
            words = ("--worker", "--rounds", str(options.rounds))
            keep_least(found, "ours", run_ours("benchmarks.step", *words))
            if torch_python():
                keep_least(found, "torch", run_torch("step", arrays, settings))
    ours, sorting = found["ours"]["step"], found["ours"]["sorting"]
    rows: list[list[Any]] = [["ours", 1e3 * ours, workload.batch / ours, "", ""]]
    if "torch" in found:
        theirs = found["torch"]["update"]
        ratios = [theirs / ours, theirs / (ours + sorting)]
        rows.append(["torch", 1e3 * theirs, workload.batch / theirs, *ratios])
    else:
        print(f"torch is missing: {TORCH_PYTHON} names no Python that has it\n")
    print(f"Preprocessing a batch: {1e3 * sorting:.3g} ms\n")
    header = ["", "ms a step", "examples a second", "ratio", "ratio with preprocessing"]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
