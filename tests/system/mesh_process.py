"""One of two processes, with two of a mesh's four devices: a step of every optimizer, and one
with minibatches.

    python -m tests.system.mesh_process RANK ADDRESS FILE

Rank 0 writes the result, as `flat` makes it, to FILE (``.npz``).
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

SEED, PROCESSES, DEVICES = 5, 2, 4
STEPS = {"every optimizer": ("all_specs", 0), "minibatches": ("few_specs", 3)}
"""By name, the function of `tests.kernels.test_engine` that makes the specs, and minibatches."""
TIMEOUT = 60


def flat(result: Any) -> dict[str, np.ndarray]:
    """Arrays by the path to them; bfloat16 as float32, which holds it exactly."""
    named, _ = jax.tree_util.tree_flatten_with_path(result)
    arrays = {jax.tree_util.keystr(path): np.asarray(value) for path, value in named}
    return {
        path: value.astype(np.float32) if value.dtype.itemsize == 2 else value
        for path, value in arrays.items()
    }


def main(rank: int, address: str, file: str) -> None:
    """Join, run the steps, and write what came out."""
    from workers.mesh import join_process_group, leave_process_group

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES // PROCESSES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    join_process_group(address, rank, PROCESSES, TIMEOUT)
    import kernels
    from tests.kernels import test_engine
    from tests.kernels.minibatching import in_minibatches
    from tests.kernels.support import AXIS, mesh_of
    from tests.kernels.test_engine import SAMPLES, Case, engine_of, machine

    sharding = NamedSharding(mesh_of(DEVICES), PartitionSpec(AXIS))

    def whole(value: Any) -> jax.Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda where: value[where])

    results = {}
    for step, (specs, minibatches) in STEPS.items():
        make_specs = getattr(test_engine, specs)
        engine, case = engine_of(make_specs, DEVICES, 1, "sum"), Case(make_specs, SEED)
        if minibatches:
            batch = in_minibatches(engine.encode(case.ids, case.gains)[0], DEVICES, 1, minibatches)
            batch = jax.tree.map(whole, batch)
        else:
            # As in a real run: every process encodes its own samples.
            share = slice(rank * SAMPLES // PROCESSES, (rank + 1) * SAMPLES // PROCESSES)
            mine, _ = kernels.preprocess_sparse_dense_matmul_input(
                {name: value[share] for name, value in case.ids.items()},
                {name: value[share] for name, value in case.gains.items()},
                engine.placed,
                DEVICES // PROCESSES,
                DEVICES,
                num_sc_per_device=1,
            )
            batch = jax.tree.map(
                lambda value: jax.make_array_from_process_local_data(sharding, np.asarray(value)),
                mine,
            )
        tables = jax.tree.map(whole, case.stacked(engine))
        gradients = jax.tree.map(whole, case.gradients)
        run = machine(make_specs, DEVICES, 1, minibatches, "cpu")
        activations, updated, summed = multihost_utils.process_allgather(
            run(batch, tables, gradients), tiled=True
        )
        variables = kernels.unstack_variables(engine.plan, updated)
        results[step] = (activations, variables, summed)
    if rank == 0:
        np.savez(file, allow_pickle=False, **flat(results))
    leave_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
