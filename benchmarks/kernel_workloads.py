"""What `benchmarks.kernels` runs in this process: our kernels, and plain XLA on the same tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import kernels
from benchmarks.preprocess_workloads import Workload

RATE = 0.05


@dataclass
class Run:
    """A workload on one device: its batch, and tables that all that is run shares."""

    workload: Workload

    def __post_init__(self) -> None:
        specs, work = self.workload.specs(), self.workload
        topology = kernels.Topology(1, 1, 1)
        entries = work.batch * work.valency
        limits = {
            spec.table_spec.name: kernels.Limits(entries, entries, entries)
            for spec in specs.values()
        }
        plan = kernels.build_plan(
            specs, topology, batch_size=work.batch, limits=limits, stack=False
        )
        self.placed = kernels.apply_plan(plan, specs)
        self.ids, gains = work.dense
        shape = (work.batch, work.valency)
        self.gains = gains or {name: np.ones(shape, np.float32) for name in self.ids}
        self.batch = jax.device_put(self.encode())
        rng = np.random.default_rng(3)
        self.gradients = {
            name: jnp.asarray(rng.normal(size=(work.batch, work.width)), jnp.float32)
            for name in self.ids
        }
        fill = jax.jit(
            lambda key, rows: jax.random.uniform(key, (rows, work.width)) - 0.5, static_argnums=1
        )
        self.tables = {}
        for number, stack in enumerate(plan.stacks):
            table = fill(jax.random.key(number), stack.vocab_size)
            slots = (jnp.full(table.shape, 0.1, jnp.float32),)
            self.tables[stack.name] = kernels.EmbeddingVariables(table, slots)

    def encode(self) -> Any:
        batch, _ = kernels.preprocess_sparse_dense_matmul_input(
            self.ids, self.gains, self.placed, 1, 1, num_sc_per_device=1
        )
        return batch

    def forward(self) -> Callable[[], Any]:
        """Ours: activations from the batch's buffers."""
        look_up = jax.jit(
            functools.partial(
                kernels.tpu_sparse_dense_matmul,
                feature_specs=self.placed,
                global_device_count=1,
                num_sc_per_device=1,
            )
        )
        return lambda: jax.block_until_ready(look_up(self.batch, self.tables))

    def update(self) -> Callable[[], None]:
        """Ours: one Adagrad step."""
        step = jax.jit(
            functools.partial(
                kernels.tpu_sparse_dense_matmul_grad,
                feature_specs=self.placed,
                num_sc_per_device=1,
            ),
            donate_argnums=2,
        )

        def run() -> None:
            self.tables = jax.block_until_ready(step(self.gradients, self.batch, self.tables))

        return run

    def xla_forward(self) -> Callable[[], Any]:
        """Plain XLA: gather, times gains, sum over the ids of a sample."""
        ids, gains = jax.device_put(self.dense())

        @jax.jit
        def look_up(tables: Any, ids: Any, gains: Any) -> Any:
            return [
                jnp.sum(variables.table.at[i].get(mode="promise_in_bounds") * g[..., None], axis=1)
                for variables, i, g in zip(tables.values(), ids, gains, strict=True)
            ]

        return lambda: jax.block_until_ready(look_up(self.tables, ids, gains))

    def xla_update(self) -> Callable[[], None]:
        """Plain XLA: sort, segment-sum per row, gather, Adagrad, scatter."""
        ids, gains = jax.device_put(self.dense())
        gradients = list(self.gradients.values())

        @functools.partial(jax.jit, donate_argnums=0)
        def step(tables: Any, ids: Any, gains: Any, gradients: Any) -> Any:
            given = zip(tables.items(), ids, gains, gradients, strict=True)
            return {
                name: _sparse_adagrad(variables, i, g, d) for (name, variables), i, g, d in given
            }

        def run() -> None:
            self.tables = jax.block_until_ready(step(self.tables, ids, gains, gradients))

        return run

    def dense(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Ids and final gains ``[batch, valency]`` by table, for rivals that combine by sums."""
        ids, gains = list(self.ids.values()), list(self.gains.values())
        if self.workload.combiner == "mean":
            gains = [g / g.sum(axis=1, keepdims=True) for g in gains]
        return ids, gains


def _sparse_adagrad(
    variables: kernels.EmbeddingVariables, ids: jax.Array, gains: jax.Array, gradients: jax.Array
) -> kernels.EmbeddingVariables:
    flat = ids.reshape(-1)
    order = jnp.argsort(flat)
    rows = flat[order]
    first = jnp.pad(rows[1:] != rows[:-1], (1, 0), constant_values=True)
    group = jnp.cumsum(first) - 1
    per_entry = gradients[order // ids.shape[1]] * gains.reshape(-1)[order][:, None]
    summed = jax.ops.segment_sum(per_entry, group, num_segments=flat.size, indices_are_sorted=True)
    nowhere = variables.table.shape[0]
    unique = jnp.full(flat.size, nowhere).at[group].set(rows)
    options = {"unique_indices": False, "indices_are_sorted": True, "mode": "drop"}
    (accumulator,) = variables.slot
    new = accumulator.at[unique].get(mode="clip") + summed * summed
    change = -RATE * summed / jnp.sqrt(new)
    return kernels.EmbeddingVariables(
        variables.table.at[unique].add(change, **options),
        (accumulator.at[unique].set(new, **options),),
    )


def bytes_moved(workload: Workload) -> tuple[float, float]:
    """Bytes that forward and update cannot do without: each row once, and the samples."""
    ids, _ = workload.dense
    rows = sum(len(np.unique(some)) for some in ids.values())
    samples = len(ids) * workload.batch
    row = 4 * workload.width
    return row * (rows + samples), row * (4 * rows + samples)


def memory_bandwidth() -> float:
    """Bytes a second that this machine reads and writes when it adds 1 to a large array."""
    from benchmarks.timing import measure

    array = jnp.zeros(2**27, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run() -> None:
        nonlocal array
        array = jax.block_until_ready(add(array))

    return 2 * array.nbytes / measure({"add": run}, rounds=5)["add"].wall
