"""``data describe``: what the columns of a data set are taken for, and why."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.command_groups import Commands
from orchestrator.config import RunConfig
from orchestrator.config_loading import load_config
from orchestrator.errors import ConfigError
from orchestrator.own_data import COLUMNS_PROGRAM, complete, run_length

if TYPE_CHECKING:
    from workers.data.holdout import Holdout
    from workers.data.understanding import Column, Understanding

__all__ = ["add_describe_command", "complete_holdout", "run_describe"]


def add_describe_command(commands: Commands) -> argparse.ArgumentParser:
    """Add ``describe`` to the commands below ``data``; its parser."""
    describe = commands.add_parser(
        "describe",
        help="tell what the columns of a data set are, and what they would be taken for",
        description=(
            "Look at a sample of the data and tell, for every column, what it holds and what "
            "`train data=PATH label=COLUMN` would take it for, and why. With a label it also tells "
            "how well each column alone orders it, and the limits that batches imply."
        ),
    )
    describe.add_argument("data", metavar="PATH", help="folder, file, glob or address")
    describe.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="label=COLUMN and other settings of a run: holdout.by=…, batch_size=…, hosts=…",
    )
    describe.add_argument(
        "--rows", type=int, default=200_000, metavar="N", help="rows to look at (200000)"
    )
    describe.add_argument(
        "--config", action="store_true", help="print the configuration of the run, and no more"
    )
    describe.set_defaults(run=run_describe)
    return describe


def run_describe(options: argparse.Namespace) -> None:
    """Carry out ``data describe``.

    Raises:
        ConfigError: A setting cannot be understood.
        DataError: The data cannot be read.
    """
    config = load_config(None, [f"data={options.data}", *options.settings])
    if options.rows < 1:
        raise ConfigError(f"--rows is {options.rows}; give at least 1")
    console = Console()
    if options.config:
        if config.label is None:
            raise ConfigError("--config needs a label: give label=COLUMN")
        print(complete(config).to_yaml(), end="")
        return
    from workers.data.sources import has_split
    from workers.data.understanding import understand

    labelled = config.label is not None and config.holdout.by == "none"
    if labelled and not has_split(options.data, "test"):
        words = [f"data={options.data}", "holdout.by=random", *options.settings]
        config = load_config(None, words)
    found = understand(options.data, config.label, complete_holdout(config), options.rows)
    tested = f", {found.test_rows:,} to evaluate on" if found.test_rows else ""
    looked = "all" if found.sample_rows >= found.rows else f"{found.sample_rows:,}"
    console.print(
        f"{options.data}: {found.rows:,} rows{tested}; {looked} of them looked at",
        markup=False,
        highlight=False,
        soft_wrap=not console.is_terminal,
    )
    for line in _columns(found):
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)
    for line in [*found.advice(), *_limits(config, found)]:
        console.print(f"- {line}", markup=False, highlight=False, soft_wrap=not console.is_terminal)


def complete_holdout(config: RunConfig) -> Holdout | None:
    """The rows that are held out, with their moment filled in."""
    without = config.model_copy(update={"label": None})
    return complete(without).holdout.chosen()


def _columns(found: Understanding) -> Iterator[str]:
    """A line of figures for every column, and below it what it is taken for."""
    header = ("column", "type", "nulls", "values", "top", "top 1%", "alone")
    rows = [header, *(_cells(column) for column in found.columns)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
    for place, row in enumerate(rows):
        cells = [
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
        if place:
            taken = found.columns[place - 1].taken
            yield f"    {taken.kind}: {taken.why}"


def _cells(column: Column) -> tuple[str, ...]:
    counts = column.counts
    return (
        column.name,
        column.type.replace("element: ", "").replace("item: ", ""),
        f"{column.nulls:.1%}" if column.nulls else "0",
        ("≈" if counts.estimate > counts.distinct else "") + f"{counts.estimate:,}",
        f"{counts.top_share:.1%}",
        f"{counts.hot_share:.1%}",
        f"{column.alone:.3f}" if column.alone == column.alone else "",
    )


def _limits(config: RunConfig, found: Understanding) -> Iterator[str]:
    """What the batches of a run would need, table stack by table stack."""
    if found.label is None:
        return
    from workers.data.implied_limits import implied_limits
    from workers.program import load_program

    program = load_program(COLUMNS_PROGRAM, found.parameters())
    if "batch_size" not in config.model_fields_set:
        config = config.model_copy(update={"batch_size": run_length(found.rows)[0]})
    holdout = complete_holdout(config)
    run = config.run_spec(str(config.data), "")
    run = replace(run, holdout=holdout)
    observed, tables = implied_limits(program, run, config.hosts)
    partitions = config.devices
    for stack, seen in observed.items():
        yield (
            f"limits for batches of {config.batch_size:,} on {partitions} devices, "
            f"{_together(len(tables[stack]))}: {seen.max_ids_per_partition:,} ids and "
            f"{seen.max_unique_ids_per_partition:,} different ones from a device to another, "
            f"{seen.required_buffer_size_per_device:,} in a device's buffer"
        )


def _together(tables: int) -> str:
    return "one table" if tables == 1 else f"{tables} tables together"
