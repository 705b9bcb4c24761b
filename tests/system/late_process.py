"""One of two processes, of which the second is later in the first step than gloo waits to connect.

    python -m tests.system.late_process RANK ADDRESS FILE

Each writes what the devices' numbers add up to into a file of its own, named after FILE.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

PROCESSES, DEVICES = 2, 4
GLOO_WAITS = 30.0


def main(rank: int, address: str, file: Path) -> None:
    """Join, be late, and add up."""
    from workers.mesh import AXIS, join_mesh, leave_process_group, spread

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES // PROCESSES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    run: Any = SimpleNamespace(platform="cpu", join_timeout=60.0, sparsecores_per_device=1)
    mesh = join_mesh(address, rank, PROCESSES, run)
    numbers = np.arange(DEVICES)
    own = jax.make_array_from_callback((DEVICES,), spread(mesh), lambda where: numbers[where])
    if rank:
        time.sleep(GLOO_WAITS + 2)
    added = jax.jit(
        jax.shard_map(
            lambda number: jax.lax.psum(2 * number, AXIS),
            mesh=mesh,
            in_specs=PartitionSpec(AXIS),
            out_specs=PartitionSpec(),
        )
    )(own)
    file.with_name(f"{file.name}-{rank}").write_text(str(int(added.addressable_data(0)[0])))
    leave_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
