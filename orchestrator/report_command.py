"""``report``: the page of a run, or of several side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.command_groups import Commands
from orchestrator.errors import ConfigError
from orchestrator.json_lines import replace_text

__all__ = ["add_report_command", "run_report", "write_report"]

_PAGE = "report.html"
_COMPARISON = "comparison.html"


def add_report_command(commands: Commands) -> None:
    """Add ``report`` to a command line."""
    report = commands.add_parser(
        "report",
        help="write a run's report, or a comparison of several runs, as one HTML file",
        description=(
            "Write a page that tells what came of a run, where its time and memory went, and what "
            "went wrong; `train` writes it too, at its end. The run may still be running, have "
            "failed, or have been killed. With several folders, the page sets the runs side by "
            "side. The file needs no network and no other file."
        ),
    )
    report.add_argument("run_folders", nargs="+", metavar="RUN", help="folder of a run")
    report.add_argument(
        "--output",
        metavar="FILE",
        help=f"file to write (default: {_PAGE} in the run's folder; {_COMPARISON} here, for "
        "several)",
    )
    report.set_defaults(run=run_report)


def run_report(options: argparse.Namespace) -> None:
    """Carry out ``report``.

    Raises:
        RunFolderError: There is no run in a folder.
        ConfigError: The page cannot be written.
    """
    folders = [Path(folder) for folder in options.run_folders]
    if len(folders) == 1:
        output = Path(options.output) if options.output else folders[0] / _PAGE
        page = _page(folders[0])
    else:
        from orchestrator.report import comparison_page, read_run

        output = Path(options.output or _COMPARISON)
        page = comparison_page([read_run(folder) for folder in folders])
    try:
        replace_text(output, [page])
    except OSError as error:
        raise ConfigError(
            f"cannot write {output}: {error.strerror}; choose another file with --output"
        ) from error
    print(output)


def write_report(folder: Path) -> Path:
    """Write the page of a run into its folder.

    Raises:
        RunFolderError: There is no run in the folder.
        OSError: The page cannot be written.
    """
    replace_text(folder / _PAGE, [_page(folder)])
    return folder / _PAGE


def _page(folder: Path) -> str:
    from orchestrator.report import read_run, report_page

    return report_page(read_run(folder))
