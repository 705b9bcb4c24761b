"""``tables``: what a run's embedding tables hold, and taking them out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from orchestrator.command_groups import Commands, commands_below
from orchestrator.errors import ConfigError
from orchestrator.kept_config import GIVEN_AGAIN, KeptConfig

if TYPE_CHECKING:
    from workers.program import Program
    from workers.saved_tables import SavedTables
    from workers.table_keys import RowKeys

__all__ = ["add_table_commands"]


def add_table_commands(commands: Commands) -> Mapping[str, argparse.ArgumentParser]:
    """Add ``tables`` and what is below it to a command line.

    Returns:
        The parsers of what is below it, by name. They take settings and flags in any order only if
        they are used by themselves.
    """
    tables = commands.add_parser("tables", help="describe, search and export embedding tables")
    below = commands_below(tables)
    _command(below, "describe", "norms, dead rows and coverage of every table", _describe)
    neighbours = _command(
        below, "neighbours", "rows that point in nearly the same direction as one", _neighbours
    )
    neighbours.add_argument("--table", required=True, metavar="T", help="name of the table")
    which = neighbours.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", type=int, metavar="X", help="number of the row")
    which.add_argument("--key", metavar="VALUE", help="the original value, in place of the number")
    neighbours.add_argument("--count", type=int, default=10, metavar="N", help="how many (10)")
    export = _command(below, "export", "write tables with their original keys", _export)
    export.add_argument("output", metavar="OUT", help="folder to make")
    export.add_argument(
        "--format", default="parquet", choices=("parquet", "numpy", "safetensors"), help="(parquet)"
    )
    export.add_argument(
        "--table", action="append", metavar="T", help="only this table; may be given again"
    )
    board = _command(below, "tensorboard", "show tables in the run's TensorBoard", _board)
    board.add_argument(
        "--table", action="append", metavar="T", help="only this table; may be given again"
    )
    board.add_argument(
        "--most", type=int, default=10_000, metavar="N", help="rows of a table (10000)"
    )
    for command in (neighbours, export, board):
        command.add_argument(
            "--no-keys", action="store_true", help="do not look for hashed values in the data"
        )
    for command in below.choices.values():
        command.add_argument("settings", nargs="*", metavar="key=value", help=GIVEN_AGAIN)
    return below.choices


def _command(
    below: Commands, name: str, words: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    command = below.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
    command.add_argument("run_folder", metavar="RUN", help="folder of the run")
    command.add_argument(
        "--step", type=int, metavar="N", help="checkpoint to read (default: the newest)"
    )
    command.set_defaults(run=run)
    return command


def _opened(options: argparse.Namespace) -> tuple[SavedTables, Program, Callable[[str], RowKeys]]:
    """The tables of a run, its program, and what finds the keys of a table."""
    from workers.data.sources import open_dataset
    from workers.planning import resolve_data, splits_of
    from workers.program import load_program
    from workers.saved_tables import SavedTables
    from workers.table_keys import keys_of

    folder = Path(options.run_folder)
    config = KeptConfig.of(folder).given_again(options.settings)
    program = load_program(config.program, config.parameters)
    tables = SavedTables(folder, program, options.step)

    def keys(table: str) -> RowKeys:
        if getattr(options, "no_keys", False):
            return keys_of(program, table, [])
        data, holdout = resolve_data(program, config.data), config.holdout.chosen()
        columns = program.schema.columns
        splits = splits_of(data, holdout)
        return keys_of(
            program, table, [open_dataset(data, split, columns, holdout) for split in splits]
        )

    return tables, program, keys


def _describe(options: argparse.Namespace) -> None:
    tables, _, _ = _opened(options)
    shown = Table(title=f"tables after step {tables.step}")
    shown.add_column("table", no_wrap=True)
    for name in (
        "rows",
        "width",
        "trained",
        "dead",
        "norm: median",
        "99%",
        "largest",
        "not finite",
    ):
        shown.add_column(name, justify="right", no_wrap=True)
    for name in tables.names:
        figures = tables.read(name).figures()
        trained = figures.trained
        shown.add_row(
            name,
            f"{figures.rows:,}",
            str(figures.width),
            "?" if trained is None else f"{trained / figures.rows:.1%}",
            "?" if trained is None else f"{figures.rows - trained:,}",
            f"{figures.median:.3g}",
            f"{figures.high:.3g}",
            f"{figures.most:.3g}",
            f"{figures.not_finite:,}" if figures.not_finite else "",
        )
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(shown)


def _neighbours(options: argparse.Namespace) -> None:
    from workers.saved_tables import nearest_rows

    if options.count < 1:
        raise ConfigError(f"--count is {options.count}; give at least 1")
    tables, _, keys_of_table = _opened(options)
    table, keys = tables.read(options.table), keys_of_table(options.table)
    row = options.id
    if row is None:
        row = keys.row_of(options.key)
        if row is None:
            raise ConfigError(f"no row of table '{options.table}' is known for '{options.key}'")
    _say(f"row {row} of '{options.table}': {keys.of(row) or 'no value known'}")
    for near, cosine in nearest_rows(table, row, options.count):
        _say(f"  {cosine:.3f}  {near}  {keys.of(near) or ''}".rstrip())


def _export(options: argparse.Namespace) -> None:
    from workers.table_export import export_tables

    tables, _, keys = _opened(options)
    names = options.table or list(tables.names)
    folder = export_tables(tables, names, keys, options.output, options.format)
    _say(f"{len(names)} tables after step {tables.step}: {folder}")


def _board(options: argparse.Namespace) -> None:
    from orchestrator.table_board import TableBoard

    if options.most < 1:
        raise ConfigError(f"--most is {options.most}; give at least 1")
    tables, _, keys = _opened(options)
    folder = Path(options.run_folder) / "tensorboard" / "tables"
    with TableBoard(folder, tables.step) as board:
        for name in options.table or tables.names:
            table = tables.read(name)
            board.histogram(table)
            rows = board.projection(table, keys, options.most)
            _say(f"{name}: {rows:,} of {len(table.rows):,} rows")
    _say(f"tables after step {tables.step}: tensorboard --logdir {folder.parent}")


def _say(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
