"""The command line's ``experiment``: many runs, compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from orchestrator.command_groups import Commands
from orchestrator.errors import ConfigError

__all__ = ["add_experiment_command"]

_FINISHED, _FAILED, _INTERRUPTED = 0, 1, 130


def add_experiment_command(commands: Commands) -> None:
    """Add ``experiment`` to a command line."""
    command = commands.add_parser(
        "experiment",
        help="train many settings, several side by side, and compare what they come to",
        description=(
            "Train a program with many settings and seeds: all combinations, random ones, or by "
            "successive halving. Each trial is a run in a process and a folder of its own; as many "
            "run side by side as the cluster has room for. At the end there is a table of all "
            "settings with mean and spread over the seeds, and a page. Ctrl-C lets all trials save "
            "and leave; --resume goes on. Exit status: 0 all trials finished, 1 some failed, 2 the "
            "input cannot be used, 130 interrupted."
        ),
    )
    command.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="the experiment as YAML; with --resume, the folder's own where none is given",
    )
    command.add_argument(
        "--folder",
        metavar="DIR",
        help="the experiment's folder (default: experiments/<name>-<time>)",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with the experiment in --folder; start it, if there is none",
    )
    command.add_argument(
        "--retry-failed",
        action="store_true",
        help="with --resume: try failed trials again, with halving those of the newest rung",
    )
    command.set_defaults(run=_experiment)


def _experiment(options: argparse.Namespace) -> int:
    if options.resume and options.folder is None:
        raise ConfigError("--resume needs --folder, to know which experiment to go on with")
    if options.retry_failed and not options.resume:
        raise ConfigError("--retry-failed goes with --resume: add it, and --folder")
    if options.file is None and not options.resume:
        raise ConfigError("give the experiment's file, or --folder and --resume to go on with one")
    from orchestrator.experiment.records import kept_settings
    from orchestrator.experiment.runner import Experiment
    from orchestrator.experiment.settings import load_experiment
    from orchestrator.run_folder import default_run_folder

    if options.file is None:
        settings = kept_settings(Path(options.folder))
    else:
        settings = load_experiment(Path(options.file))
    folder = Path(options.folder or default_run_folder(settings.name, Path("experiments")))
    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    experiment = Experiment(
        settings, folder, resume=options.resume, retry_failed=options.retry_failed, say=say
    )
    trials = len(experiment.tried) * len(settings.seeds)
    say(f"{settings.name}: {len(experiment.tried)} settings, {trials} trials; folder {folder}")
    results = experiment.run()
    console.print(results.table())
    say(f"page {folder / 'comparison.html'}; table {folder / 'results.csv'}")
    if results.interrupted:
        say(f"trials are left: go on with experiment --folder {folder} --resume")
        return _INTERRUPTED
    return _FAILED if results.failed else _FINISHED
