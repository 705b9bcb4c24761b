"""The small program of the tests, with traps: faults that strike host processes at exact moments.

A trap is set in the host process, when it loads the program, and sends a real signal to that
process. The traps are in a JSON file, so that runs with and without them have the same program.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.workers import small_program
from workers import Program

__all__ = ["Trap", "program", "set_traps", "small_data"]

TRAIN_ROWS, TEST_ROWS = 2600, 320
LONGEST_WAIT = 20.0
"""Seconds for one host to be struck together with another."""


@dataclass(frozen=True)
class Trap:
    """One fault.

    Attributes:
        moment: ``compiling``, ``restoring``, ``saving`` (before it is committed), ``training``, or
            ``evaluating``; ``planning`` strikes by no signal: the host has other code.
        ranks: Hosts that fall into it. Those that a signal strikes wait until all of them have.
        step: For ``training``, the step that is about to be run.
        signal: Name of the signal; empty sleeps instead, in an evaluation before every step,
            where it leaves a file ``<file>.<number>-<rank>``.
        again: Whether it strikes each time; else each host once.
        seconds: How long is slept, at most: until there is a file ``<file>.<number>-go``.
    """

    moment: str
    ranks: tuple[int, ...] = (0, 1)
    step: int = -1
    signal: str = "SIGKILL"
    again: bool = False
    seconds: float = 1.0


def set_traps(file: Path, *traps: Trap) -> str:
    """Write the file; the setting that makes a run use it."""
    file.write_text(json.dumps([asdict(trap) for trap in traps]))
    return f"parameters.traps={file}"


def program(traps: str = "", vocabulary: int = 600) -> Program:
    """The small program; ``traps`` is the path of a file, or empty."""
    if traps:
        for number, trap in enumerate(json.loads(Path(traps).read_text())):
            _set(Trap(**trap), Path(f"{traps}.{number}"))
    return small_program.program(vocabulary)


def small_data(folder: Path) -> Path:
    """Data for it: a file of each split, in row groups of 128 rows."""
    generator = np.random.default_rng(0)
    for split, rows in (("train", TRAIN_ROWS), ("test", TEST_ROWS)):
        item = generator.integers(0, 600, rows)
        tags = [[f"t{n}" for n in range(generator.integers(0, 4))] for _ in range(rows)]
        table = pa.table(
            {
                "item": item,
                "tags": pa.array(tags, pa.list_(pa.string())),
                "price": generator.normal(size=rows),
                "label": (item % 2 == 0).astype(np.int8),
            }
        )
        (folder / split).mkdir(parents=True)
        pq.write_table(table, folder / split / "part-0.parquet", row_group_size=128)
    return folder


def _set(trap: Trap, mark: Path) -> None:
    """Put a trap in the way of this process, if it is a host's."""
    from workers import checkpoint, compiled_steps, host

    def is_due() -> bool:
        rank = jax.process_index()
        mine = mark.with_name(f"{mark.name}-{rank}")
        due = rank in trap.ranks and (trap.again or not mine.exists())
        if due:
            mine.touch()
        return due

    def all_are_in() -> bool:
        return all(mark.with_name(f"{mark.name}-{rank}").exists() for rank in trap.ranks)

    def spring() -> None:
        if is_due():
            if trap.signal:
                together = time.monotonic() + LONGEST_WAIT
                while time.monotonic() < together and not all_are_in():
                    time.sleep(0.001)
                os.kill(os.getpid(), getattr(signal, trap.signal))
                return
            deadline = time.monotonic() + trap.seconds
            while time.monotonic() < deadline and not mark.with_name(f"{mark.name}-go").exists():
                time.sleep(0.05)

    match trap.moment:
        case "compiling":
            _before(compiled_steps._Step, "_compile", lambda step, *_: spring())
        case "restoring":
            _before(checkpoint.Checkpoints, "_saved_plan", lambda *_: spring())
        case "saving":
            _before(checkpoint, "seal", lambda *_: spring())
        case "training":
            _before(
                host.Host, "_train", lambda host, ready: spring() if ready.step == trap.step else 0
            )
        case "planning":
            rebuilt = host.rebuilt

            def by_other_code(program: Program, *others: Any) -> Any:
                return rebuilt(small_program.program(700) if is_due() else program, *others)

            host.rebuilt = by_other_code
        case "evaluating":

            def slow_step() -> None:
                mark.with_name(f"{mark.name}-{jax.process_index()}").touch()
                time.sleep(trap.seconds)

            host.evaluate = functools.partial(_slow_evaluation, host.evaluate, slow_step)
        case other:
            raise ValueError(other)


def _before(place: Any, name: str, act: Callable[..., Any]) -> None:
    """Let something happen before each call of a function."""
    function = getattr(place, name)

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        act(*arguments)
        return function(*arguments, **named)

    setattr(place, name, wrapped)


def _slow_evaluation(
    evaluate: Callable[..., Any], slow_step: Callable[[], None], *arguments: Any
) -> Any:
    *others, may_run = arguments

    def slowly(step: int) -> bool:
        slow_step()
        return may_run(step)

    return evaluate(*others, slowly)
