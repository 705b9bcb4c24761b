"""Compiles train steps in a process of their own; prints what came out, a line of JSON for each.

python -m tests.workers.compile_step "v6e:2x2 in-place users=30000000 tags=0" "v6e:2x2 copying"
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import jax

from tests.workers.click_program import program
from workers import aot

BATCH = 1024


def main(topology: str, way: str, *parameters: str) -> dict[str, Any]:
    sizes = {name: int(value) for name, _, value in (p.partition("=") for p in parameters)}
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
        "layouts": sorted(
            {line.split("{")[1].split("}")[0] for line in step.hlo.splitlines() if _is_table(line)}
        ),
        "seconds": [step.lowering_seconds, step.compiling_seconds],
    }


def _is_table(line: str) -> bool:
    return " parameter(" in line and "state.tables" in line


if __name__ == "__main__":
    for case in sys.argv[1:]:
        print(json.dumps(main(*case.split())))
