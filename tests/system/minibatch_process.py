"""One of two hosts that train in minibatches, and then again with larger limits.

    python -m tests.system.minibatch_process RANK ADDRESS FOLDER

FOLDER holds ``run.json`` (what `RunSpec` is made of) and the plans ``tight.json``, ``roomy.json``.
Rank 0 writes what came of each plan to ``<plan>.npz``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

HOSTS, DEVICES_PER_HOST = 2, 2
LEASES = (((0, 3), ()), ((3, 9), (5,)), ((9, 12), ()))
"""Steps [first, last) of every lease, and those whose batches are passed over."""


def main(rank: int, address: str, folder: Path) -> None:
    """Join, train under both plans, and write what came out."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES_PER_HOST)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    import kernels
    from workers import protocol
    from workers.host import Host

    run = protocol.RunSpec(**json.loads((folder / "run.json").read_text()))
    host = Host(run, protocol.Assignment(rank, HOSTS, 0))
    host.execute(protocol.Join(address))
    for name in ("tight", "roomy"):
        plan = kernels.EmbeddingPlan.from_json((folder / f"{name}.json").read_text())
        host.execute(protocol.Prepare(plan.to_json()))
        host.execute(protocol.Restore(None))
        losses, minibatches = [], []
        for number, ((first, last), skip) in enumerate(LEASES):
            lease = protocol.Lease(number, plan.hash, first, last, skip=skip)
            done = host.execute(protocol.RunLease(lease))
            assert isinstance(done, protocol.LeaseDone)
            losses += done.losses
            minibatches.append((done.squeezed.steps, done.squeezed.most))
        evaluated = host.execute(protocol.Evaluate("test"))
        assert isinstance(evaluated, protocol.Evaluated)
        tables = multihost_utils.process_allgather(host.state.tables, tiled=True)
        if rank == 0:
            named = {
                f"{table}-{number}": leaf
                for table, variables in kernels.unstack_variables(plan, tables).items()
                for number, leaf in enumerate(jax.tree.leaves(variables))
            }
            figures = evaluated.metrics.result()
            np.savez(
                folder / f"{name}.npz",
                allow_pickle=False,
                losses=losses,
                minibatches=minibatches,
                evaluated=[figures["loss"], figures["examples"]],
                **named,
            )
    host.execute(protocol.Finish())
    host.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
