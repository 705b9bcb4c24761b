"""The command line's ``data``: text files to Parquet, with progress; joins; descriptions."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from orchestrator.command_groups import Commands, commands_below
from orchestrator.describe_command import add_describe_command
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from workers.data.convert.conversion import Progress as Converting

__all__ = ["add_data_commands", "run_data_command", "run_join"]

_SECONDS_BETWEEN_LINES = 5.0


def add_data_commands(commands: Commands) -> argparse.ArgumentParser:
    """Add ``data`` and what is below it to a command line; the parser of ``data describe``."""
    data = commands.add_parser("data", help="convert, join and describe data")
    below = commands_below(data)
    describe = add_describe_command(below)
    _add_join(below)
    _add_convert(below)
    return describe


def _add_join(below: Commands) -> None:
    join = below.add_parser(
        "join",
        help="put side tables (of users, items, …) beside the rows of a data set",
        description=(
            "Write the data with the columns of side tables beside its own. A side table is a "
            "Parquet or text file with one row for each value of a column of the data."
        ),
    )
    join.add_argument("data", metavar="DATA", help="folder of Parquet files")
    join.add_argument(
        "sides", nargs="+", metavar="COLUMN=FILE", help="what to join on, and the side table"
    )
    join.add_argument("output", metavar="OUT", help="folder to make")
    join.set_defaults(run=run_join)


def run_join(options: argparse.Namespace) -> None:
    """Carry out ``data join``.

    Raises:
        ConfigError: A side table is not given as COLUMN=FILE.
        DataError: See ``workers.data.convert.joining.join``.
    """
    from workers.data.convert.joining import join, read_side_table

    sides = []
    for word in options.sides:
        key, equals, file = word.partition("=")
        if not (key and equals and file):
            raise ConfigError(f"'{word}' is not COLUMN=FILE, for example user=users.csv")
        sides.append(read_side_table(file, key))
    done = join(options.data, sides, options.output)
    console = Console()
    _say(console, f"{done.rows:,} rows with {', '.join(done.columns)} added: {done.folder}")
    for key, rows in done.without.items():
        if rows:
            _say(console, f"{rows:,} rows have a {key} without a side table's row: null there")


def _add_convert(below: Commands) -> None:
    convert = below.add_parser(
        "convert",
        help="convert CSV, TSV, Criteo or rating files to Parquet",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description=(
            "Convert text files, also compressed ones (.gz, .bz2, .zst), to a folder of Parquet "
            "files. A conversion that was ended goes on when the same command is given again."
        ),
    )
    convert.set_defaults(run=run_data_command)
    convert.add_argument(
        "--from", dest="kind", required=True, choices=("criteo", "ratings", "csv"), help="layout"
    )
    convert.add_argument("sources", nargs="+", metavar="SOURCE", help="files or folders")
    convert.add_argument("output", metavar="OUT", help="folder to make")
    convert.add_argument("--delimiter", help="between two values; default: as the first line has")
    convert.add_argument(
        "--columns", default="", metavar="A,B", help="names, for csv files without a header"
    )
    convert.add_argument(
        "--types", default="", metavar="A=TYPE,B=TYPE", help="types of columns found wrong"
    )
    convert.add_argument(
        "--null", action="append", default=[], help="word for no value, besides the empty one"
    )
    convert.add_argument(
        "--positive", type=float, default=4.0, help="ratings of at least this have label 1"
    )
    convert.add_argument("--row-group-rows", type=int, default=65_536, help="rows of a row group")
    convert.add_argument("--part-rows", type=int, default=1 << 20, help="least rows of a file")
    convert.add_argument(
        "--block-bytes", type=int, default=8 << 20, help="text read and parsed at a time"
    )
    convert.add_argument(
        "--quarantine",
        type=int,
        default=0,
        metavar="N",
        help="leave out up to N bad lines, and write them down in OUT/_quarantine",
    )


def run_data_command(options: argparse.Namespace) -> None:
    """Carry out ``data convert``.

    Raises:
        ConfigError: An option cannot be understood.
        DataError: See ``workers.data.convert.convert``.
    """
    from workers.data.convert import Settings, convert

    settings = Settings(
        kind=options.kind,
        delimiter=_delimiter(options.delimiter),
        columns=tuple(filter(None, options.columns.split(","))),
        types=_types(options.types),
        nulls=tuple(options.null),
        positive=options.positive,
        row_group_rows=options.row_group_rows,
        part_rows=options.part_rows,
        block_bytes=options.block_bytes,
        most_bad=options.quarantine,
    )
    console = Console()
    with _shown(console) as report:
        done = convert(settings, options.sources, options.output, report)
    kept = f", {done.parts_kept} of them from before" if done.parts_kept else ""
    _say(console, f"{done.rows:,} rows in {done.parts} files{kept}: {done.folder}")
    if done.bad:
        _say(console, f"{done.bad:,} bad lines are left out: {done.folder / '_quarantine'}")


def _delimiter(word: str | None) -> str | None:
    """The delimiter meant: shells make it hard to type a tab."""
    return "\t" if word in ("\\t", "tab") else word


def _types(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in filter(None, text.split(","))]
    for name, equals, kind in pairs:
        if not (name and equals and kind):
            raise ConfigError(f"--types: '{name}{equals}{kind}' is not COLUMN=TYPE")
    return {name: kind for name, _, kind in pairs}


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[Converting], None]]:
    """A bar on a terminal, else a line now and then."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("converting", total=None)

            def draw(now: Converting) -> None:
                words = f"{now.rows:,} rows, {now.parts} files done"
                bar.update(task, description=words, completed=now.bytes, total=now.total_bytes)

            yield draw
        return
    last = time.monotonic()

    def say(now: Converting) -> None:
        nonlocal last
        if time.monotonic() - last < _SECONDS_BETWEEN_LINES:
            return
        last = time.monotonic()
        share = now.bytes / now.total_bytes if now.total_bytes else 1.0
        _say(console, f"{share:.0%}: {now.rows:,} rows, {now.parts} files done")

    yield say
