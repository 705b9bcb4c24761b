"""Compiles train steps in a process of their own; prints what came out, a line of JSON for each.

python -m tests.workers.compile_step "v6e:2x2 in-place users=30000000 tags=0" "v6e:2x2 copying"

In place of the step it compiles what counts norms of rows: "v6e:2x2 norms".
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp

from tests.workers.click_program import program
from workers import aot
from workers.mesh import make_mesh, table_format
from workers.row_norms import make_norms_step

BATCH = 1024


def main(topology: str, way: str, *parameters: str) -> dict[str, Any]:
    sizes = {name: int(value) for name, _, value in (p.partition("=") for p in parameters)}
    if way == "norms":
        return norms(topology, **sizes)
    make = aot.make_train_step
    if way == "copying":
        # What the step would be if nobody cared: nothing donated, tables as any other array.
        aot.make_train_step = lambda *given: jax.jit(make(*given).__wrapped__)
    try:
        step = aot.compile_train_step(program(**sizes), topology, BATCH)
    except jax.errors.JaxRuntimeError as error:
        return {"error": str(error)}
    finally:
        aot.make_train_step = make
    return {
        "device_kind": step.device_kind,
        "devices": step.plan.topology.devices,
        "sparsecores": step.plan.topology.sparsecores,
        "memory": dataclasses.asdict(step.memory) | {"total": step.memory.total},
        "moved": step.moved_tables(),
        "shares": [stack.vocab_size // step.plan.topology.devices for stack in step.plan.stacks],
        "layouts": layouts(step.hlo, "state.tables"),
        "seconds": [step.lowering_seconds, step.compiling_seconds],
    }


def norms(topology: str, **sizes: int) -> dict[str, Any]:
    mesh = make_mesh(aot.describe_topology(topology))
    plan = aot.plan_for_mesh(program(**sizes), mesh, BATCH)
    laid = {"dtype": jnp.float32, "sharding": table_format(mesh)}
    arrays = {
        stack.name: jax.ShapeDtypeStruct((stack.vocab_size, stack.width), **laid)
        for stack in plan.stacks
    }
    step = make_norms_step(plan, mesh)
    compiled = step.trace(arrays).lower(lowering_platforms=("tpu",)).compile()
    memory = compiled.memory_analysis()
    return {
        "tables": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "moved": aot.table_sized_operations(compiled.as_text(), plan),
        "layouts": layouts(compiled.as_text(), "stacks"),
    }


def layouts(hlo: str, name: str) -> list[str]:
    """Layouts of the arguments of this name."""
    lines = [line for line in hlo.splitlines() if " parameter(" in line and name in line]
    return sorted({line.split("{")[1].split("}")[0] for line in lines})


if __name__ == "__main__":
    for case in sys.argv[1:]:
        print(json.dumps(main(*case.split())))
