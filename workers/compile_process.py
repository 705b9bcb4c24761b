"""The process that compiles: ``python -m workers.compile_process FD``, a request on standard input.

XLA's TPU compiler must be told before Python starts that there is no TPU, it may abort its process,
and it writes what it likes to standard output. So it runs in a process of its own, with
``workers.aot.COMPILER_ENVIRONMENT``, and answers through a pipe, one line of JSON for everything:

    {"phase": "lowering"}   {"phase": "compiling"}      as they begin
    {"done": {...}}                                     at the end, a ``CompileOutcome``
    {"wrong": "..."}                                    instead, where the request cannot be used

It ends when the process that started it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kernels.errors import EmberayError

__all__ = [
    "STEPS",
    "CompileOutcome",
    "CompileRequest",
    "compile_for",
    "main",
    "sizes_in",
    "without_slots",
]

STEPS = 1000
"""Steps that a program is told its run has. With one alone, what is done now and then always is."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class CompileRequest:
    """What to compile, and for which slices."""

    program: str
    """``package.module:callable``."""
    parameters: Mapping[str, Any]
    plan: str
    """The plan as JSON: batch size, limits and all."""
    topology: str
    """As ``workers.aot.describe_topology`` names it."""
    slices: int
    host_bounds: tuple[int, int, int]
    """Chips of a host along every axis."""
    without_slots: bool = False
    """Whether all tables are trained without slot variables: see ``without_slots``."""
    parent: int = 0
    """The process to end with; 0 for none."""


@dataclass(frozen=True)
class CompileOutcome:
    """What came out: all sizes are bytes of one device."""

    refusal: str = ""
    """The compiler's words, if it refused; empty if it compiled."""
    needed: int = 0
    """Most that is in use at a time; 0 where the compiler refused and did not say."""
    available: int = 0
    """What the compiler had to give; 0 where it did not say."""
    arguments: int = 0
    temporaries: int = 0
    """Scratch memory: activations, gradients, exchange."""
    code: int = 0
    copies_of_tables: int = 0
    """Instructions that make something of a table's size: there should be none."""
    lowering_seconds: float = 0.0
    compiling_seconds: float = 0.0

    @property
    def compiled(self) -> bool:
        """Whether the compiler took the program."""
        return not self.refusal


def without_slots(program: Any) -> Any:
    """The program with plain SGD for all tables, which keeps no slot variables."""
    from kernels import SGDOptimizerSpec

    optimizer = SGDOptimizerSpec(0.01)
    tables = tuple(dataclasses.replace(table, optimizer=optimizer) for table in program.tables)
    return dataclasses.replace(program, tables=tables)


def compile_for(request: CompileRequest, report: Callable[[str], None]) -> CompileOutcome:
    """Compile as the request says, in this very process.

    Args:
        request: What, and for what.
        report: Told ``lowering`` and ``compiling`` when each begins.

    Raises:
        EmberayError: The request cannot be used.
    """
    import jax

    from kernels import EmbeddingPlan
    from workers import aot
    from workers.program import load_program

    program = load_program(request.program, request.parameters, STEPS)
    if request.without_slots:
        program = without_slots(program)
    devices = aot.describe_topology(request.topology, request.slices, request.host_bounds)
    plan = EmbeddingPlan.from_json(request.plan)
    try:
        step = aot.compile_train_step(
            program, request.topology, plan.batch_size, plan, devices=devices, report=report
        )
    except jax.errors.JaxRuntimeError as error:
        refusal = " ".join(str(error).partition(_WHERE)[0].split())
        needed, available = sizes_in(refusal)
        return CompileOutcome(refusal=refusal, needed=needed, available=available)
    return CompileOutcome(
        needed=step.memory.total,
        arguments=step.memory.arguments,
        temporaries=step.memory.temporaries,
        code=step.memory.code,
        copies_of_tables=len(step.moved_tables()),
        lowering_seconds=step.lowering_seconds,
        compiling_seconds=step.compiling_seconds,
    )


def sizes_in(refusal: str) -> tuple[int, int]:
    """What is needed and what is available, in bytes, as a refusal of the compiler tells.

    Returns:
        Zeros where it does not tell.

    Example:
        >>> sizes_in("memory required for temporaries (40.25G) exceeds available HBM (31.24G)")
        (43218108416, 33543694417)
    """
    found = re.search(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)", refusal)
    if found is None:
        return 0, 0
    needed, needed_unit, available, available_unit = found.groups()
    return _bytes(needed, needed_unit), _bytes(available, available_unit)


def main(pipe: int) -> None:
    """Read a request from standard input, compile, and answer through a pipe."""
    request = CompileRequest(**json.load(sys.stdin))
    _end_with(request.parent)
    with os.fdopen(pipe, "w", buffering=1) as answers:

        def tell(**what: Any) -> None:
            answers.write(json.dumps(what) + "\n")

        try:
            outcome = compile_for(request, lambda phase: tell(phase=phase))
        except EmberayError as error:
            tell(wrong=str(error))
        else:
            tell(done=dataclasses.asdict(outcome))


_WHERE = "Suspected Python Code Location"
"""What the compiler says from here on tells of its own code."""

_SIZE = r"([\d.]+)([KMGT]?)"


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def _end_with(parent: int) -> None:
    """Let this process be killed when its parent ends; where that cannot be had, do without."""
    if not parent:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that asked is gone")


if __name__ == "__main__":
    main(int(sys.argv[1]))
