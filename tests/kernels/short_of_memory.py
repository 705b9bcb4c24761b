"""An update for which there is no memory, amid those for which there is; run as a process."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import kernels
from kernels.backends.cpu_calls import native_module
from tests.kernels.support import Engine, feature, table

ROWS, SAMPLES, IDS, WIDTH, SPARSECORES = 200_000, 32_768, 64, 8, 2
FEW, BEFORE = 64, 20
"""Samples of an update that leaves little memory free for others, and how many of them are done
before, so that every thread has worked: the C library allocates what is a thread's own when it is
first used, and ends the process if it cannot."""


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


def compiled_update(samples: int) -> tuple[Engine, Callable[[Any], Any]]:
    """The update for a batch of so many samples, as a function of the tables, which are donated."""
    engine = Engine({"f": feature("f", table("t", ROWS, WIDTH), samples, IDS)}, 1, SPARSECORES)
    ids = np.random.default_rng(0).integers(0, ROWS, (samples, IDS)).astype(np.int32)
    batch, _ = engine.encode({"f": ids})
    given = jax.device_put(({"f": np.ones((samples, WIDTH), np.float32)}, batch))

    def update(tables, gradients, batch):
        return kernels.tpu_sparse_dense_matmul_grad(
            gradients, batch, tables, engine.placed, num_sc_per_device=SPARSECORES
        )

    compiled = jax.jit(update, donate_argnums=0).lower(engine.tables(), *given).compile()
    return engine, lambda tables: jax.block_until_ready(compiled(tables, *given))


def main() -> None:
    """Say what became of the update without memory, and that the next one worked."""
    jax.config.update("jax_platforms", "cpu")
    native_module().set_threads(4)
    engine, update = compiled_update(SAMPLES)
    _, small_update = compiled_update(FEW)
    tables = jax.device_put(engine.tables())
    for _ in range(BEFORE):
        tables = small_update(tables)
    held = take_what_is_left()
    try:
        update(tables)
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # the latter from JAX's quick path
        said = str(error)
    else:
        said = "nothing"
    del held
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(said)
    update(jax.device_put(engine.tables()))
    print("and goes on")


if __name__ == "__main__":
    main()
