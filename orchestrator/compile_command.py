"""The command line's ``compile``: does a train step fit on TPUs that are not there?

    python -m orchestrator compile ranker.yaml --topology v6e-16

Of the configuration, the program, its parameters, the batch size and the limits count; and the data
where there is a ``label``, as the program is made from what is understood of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console

from orchestrator.compile_cases import CompileCase, estimate
from orchestrator.compile_changes import other_generations, try_changes
from orchestrator.compile_report import as_values, report_lines
from orchestrator.compiler import check_compiler, run_compiler
from orchestrator.config import RunConfig
from orchestrator.config_loading import load_config
from orchestrator.errors import ConfigError
from orchestrator.own_data import complete
from orchestrator.topology import SliceTopology, slice_topology
from workers.compile_process import CompileOutcome

__all__ = ["add_compile_command", "run_compile_command"]


def add_compile_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add ``compile`` to a command line; returns its own parser."""
    parser = commands.add_parser(
        "compile",
        help="compile a program's train step for TPUs that are not there: does it fit?",
        description=(
            "Compile the complete train step with XLA's TPU compiler (extra 'tpu'), on any "
            "machine: whether it fits, what takes how much memory, and if it does not fit, which "
            "change would help. Exit code 0: it fits; 1: it does not."
        ),
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="config.yaml | key=value",
        help="as for train; program, parameters, batch_size and limits count, or data and label",
    )
    parser.add_argument("--topology", metavar="NAME", help="slice, such as v5p-8, v6e-16 or 7x-16")
    parser.add_argument("--slices", type=int, metavar="N", help="number of slices (default: 1)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="longest time for one compilation (default: 600)",
    )
    parser.add_argument(
        "--no-changes",
        action="store_true",
        help="if it does not fit, do not look for what would help",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run_compile_command(options: argparse.Namespace) -> bool:
    """Carry out ``compile``; whether the step fits.

    Raises:
        ConfigError: Something given cannot be used, or there is no compiler.
        CompilerError: The compiler gave no answer.
        DataError: There is a label, and its data cannot be used.
        EmberayError: The program or its plan cannot be used.
    """
    overrides = [word for word in options.settings if "=" in word]
    files = [word for word in options.settings if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"one configuration file at most, but {len(files)} are given: {files}")
    config = load_config(files[0] if files else None, overrides)
    check_compiler()
    topology = _topology(options, config)
    if config.label is not None:
        config = complete(config)
    case = CompileCase(
        program=config.program,
        parameters=config.parameters,
        batch_size=config.batch_size,
        topology=topology,
        limits=config.fixed_limits,
    )
    plan = case.plan()
    computed = estimate(plan, case.topology)
    console, notes = Console(), Console(stderr=True)

    def compiled(one: CompileCase) -> CompileOutcome:
        what = f"{one.topology.described}, batch of {one.batch_size:,}"
        if one.without_slots:
            what += ", plain SGD"
        with _progress(notes, what) as report:
            return run_compiler(one.request(one.plan()), options.timeout, report)

    outcome = compiled(case)
    looks = not outcome.compiled and not options.no_changes
    tried = try_changes(case, outcome, compiled) if looks else []
    elsewhere = other_generations(case) if looks else []
    found = (case, computed, outcome, tried, elsewhere)
    if options.json:
        print(json.dumps(as_values(*found)))
    else:
        for line in report_lines(*found):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return outcome.compiled


def _topology(options: argparse.Namespace, config: RunConfig) -> SliceTopology:
    """The slices named on the command line, else in the configuration."""
    name = options.topology or config.cluster.topology
    if name is None:
        raise ConfigError(
            "for which TPUs? Give --topology, such as v6e-16, or cluster.topology in the "
            "configuration"
        )
    own = config.cluster.slices if options.topology is None else 1
    return slice_topology(name, own if options.slices is None else options.slices)


def _progress(console: Console, what: str) -> AbstractContextManager[Callable[[str], None]]:
    """What is being done, on a terminal as it goes on, else a line for everything that begins."""
    if console.is_terminal:
        return _Spinner(console, what)
    console.print(f"compiling for {what}", markup=False, highlight=False, soft_wrap=True)
    return nullcontext(lambda phase: None)


class _Spinner(AbstractContextManager[Callable[[str], None]]):
    """A line that says what is being done and since when."""

    def __init__(self, console: Console, what: str) -> None:
        self._status = console.status(f"{what}: starting the compiler")
        self._what = what

    def __enter__(self) -> Callable[[str], None]:
        self._status.start()

        def report(phase: str) -> None:
            self._status.update(f"{self._what}: {phase} since {time.strftime('%H:%M:%S')}")

        return report

    def __exit__(self, *raised: Any) -> None:
        self._status.stop()
