"""An update for which there is no memory, and then one for which there is; run as a process."""

from __future__ import annotations

import resource
from pathlib import Path

import jax
import numpy as np

import kernels
from kernels.backends.cpu_calls import native_module
from tests.kernels.support import Engine, feature, table

ROWS, SAMPLES, IDS, WIDTH = 200_000, 4096, 64, 8


def take_what_is_left() -> list[np.ndarray]:
    """Arrays in all the memory that the process has and does not use."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size // 2, resource.RLIM_INFINITY))
    held = []
    for count in (1 << 20, 1 << 16, 1 << 14):
        try:
            while True:
                held.append(np.empty(count, np.uint8))
        except MemoryError:
            continue
    return held


def main() -> None:
    """Say what became of the first update, and that the second one worked."""
    jax.config.update("jax_platforms", "cpu")
    native_module().set_threads(4)
    engine = Engine({"f": feature("f", table("t", ROWS, WIDTH), SAMPLES, IDS)}, 1)
    ids = np.random.default_rng(0).integers(0, ROWS, (SAMPLES, IDS)).astype(np.int32)
    batch, _ = engine.encode({"f": ids})
    gradients = {"f": np.ones((SAMPLES, WIDTH), np.float32)}
    given = jax.device_put((gradients, batch))

    def update(tables, gradients, batch):
        return kernels.tpu_sparse_dense_matmul_grad(
            gradients, batch, tables, engine.placed, num_sc_per_device=1
        )

    tables = jax.device_put(engine.tables())
    compiled = jax.jit(update, donate_argnums=0).lower(tables, *given).compile()
    held = take_what_is_left()
    try:
        jax.block_until_ready(compiled(tables, *given))
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
    else:
        said = "nothing"
    del held
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(said)
    jax.block_until_ready(compiled(jax.device_put(engine.tables()), *given))
    print("and goes on")


if __name__ == "__main__":
    main()
