"""The command line's ``plan``: what a run would take and move, before it is launched.

python -m orchestrator plan ranker.yaml cluster.topology=v6e-16
"""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from orchestrator.config_loading import load_config
from orchestrator.errors import ConfigError

__all__ = ["add_plan_command", "run_plan_command"]

_BATCHES = 8
"""As many as a run surveys before its first plan."""


def add_plan_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add ``plan`` to a command line; returns its own parser."""
    parser = commands.add_parser(
        "plan",
        help="tell what a run would take: memory by table and device, exchange, time of a step",
        description=(
            "Plan a run without launching it: bytes of every table, device and host, padding, "
            "what a sample of the data asks for and sends between devices, and on TPU slices the "
            "least time of a step by the chips' published speeds. Runs on any machine."
        ),
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="config.yaml | key=value",
        help="as for train, such as cluster.topology=v6e-16",
    )
    parser.add_argument(
        "--batches",
        type=int,
        default=_BATCHES,
        metavar="N",
        help=f"batches of each split to look at (default: {_BATCHES}, as a run does before its "
        "first plan); with 0 no data is read",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run_plan_command(options: argparse.Namespace) -> None:
    """Carry out ``plan``.

    Raises:
        ConfigError: Something given cannot be used.
        DataError: The data cannot be read.
        EmberayError: The program or its plan cannot be used.
    """
    overrides = [word for word in options.settings if "=" in word]
    files = [word for word in options.settings if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"one configuration file at most, but {len(files)} are given: {files}")
    if options.batches < 0:
        raise ConfigError(f"--batches is {options.batches}; give 0 or more")
    config = load_config(files[0] if files else None, overrides)
    # JAX, which they need, takes seconds to import: other commands go without.
    from orchestrator.plan_figures import plan_figures
    from orchestrator.plan_report import as_values, report

    figures = plan_figures(config, batches=options.batches)
    if options.json:
        print(json.dumps(as_values(figures)))
        return
    console = Console()
    if not console.is_terminal:
        console.width = 140
    for part in report(figures):
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
