"""The command line's ``predict``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from orchestrator.command_groups import Commands

__all__ = ["add_predict_command"]

_SECONDS_BETWEEN_LINES = 4.0


def add_predict_command(commands: Commands) -> None:
    """Add ``predict`` to a command line."""
    command = commands.add_parser(
        "predict",
        help="predict the rows of data with a trained run: Parquet to Parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Predict every row of the data once, with tables and model of a run's checkpoint, on\n"
            "as many hosts as the run is configured for. A command that was ended goes on when it\n"
            "is given again."
        ),
        epilog=_options(),
    )
    command.add_argument("run_folder", metavar="RUN", help="folder of the run")
    command.add_argument(
        "settings", nargs="+", metavar="key=value", help="data=PATH out=PATH and others"
    )
    command.set_defaults(run=_predict)


def _options() -> str:
    from orchestrator.predict_settings import PLACES, PredictSettings

    lines = []
    for name, field in PredictSettings.model_fields.items():
        default = "" if field.is_required() or field.default is None else f" ({field.default})"
        lines.append(f"  {name:<11} {' '.join(str(field.description).split())}{default}")
    return (
        "options (key: default):\n"
        + "\n".join(lines)
        + f"\n\nalso, as for train: {', '.join(PLACES)}"
    )


def _predict(options: argparse.Namespace) -> None:
    from orchestrator.predict_settings import predict_settings
    from orchestrator.predicting import predict
    from orchestrator.prediction_run import Interrupted

    console = Console()
    began = last = time.monotonic()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def progress(done: int, rows: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done and (now - last >= _SECONDS_BETWEEN_LINES or done == rows):
            last = now
            say(f"{done / rows:.0%}: {done:,} of {rows:,} rows after {now - began:.0f} s")

    folder = Path(options.run_folder)
    settings, config = predict_settings(folder, options.settings)
    try:
        made = predict(folder, settings, config, say, progress)
    except Interrupted:
        say("interrupted: the same command goes on with the parts that are missing")
        raise KeyboardInterrupt from None
    kept = f", {made.kept_parts} of them from before" if made.kept_parts else ""
    say(
        f"{made.rows:,} rows predicted after step {made.step} in {made.parts} files{kept}: "
        f"{made.folder}"
    )
    if made.unusable:
        say(
            f"{made.unusable:,} rows could not be used and have no prediction: "
            f"{made.folder / '_quarantine'}"
        )
