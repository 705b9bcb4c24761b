"""The command line: ``python -m orchestrator train [config.yaml] [key=value …]``, ``… data …``.

Exit codes: 0 the run is finished; 1 it failed, or what was to be compiled does not fit, or the
doctor found something; 2 the input cannot be used; 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console as RichConsole

from kernels.errors import EmberayError
from orchestrator.command_groups import commands_below
from orchestrator.compile_command import add_compile_command, run_compile_command
from orchestrator.config_help import options_table
from orchestrator.config_loading import load_config
from orchestrator.data_commands import add_data_commands
from orchestrator.doctor_command import add_doctor_command, run_doctor_command
from orchestrator.errors import BAD_INPUT, ConfigError
from orchestrator.experiment_command import add_experiment_command
from orchestrator.export_command import add_export_command
from orchestrator.hidden_output import hidden_output
from orchestrator.plan_command import add_plan_command, run_plan_command
from orchestrator.predict_command import add_predict_command
from orchestrator.report_command import add_report_command
from orchestrator.table_commands import add_table_commands

__all__ = ["main"]

_FINISHED, _FAILED, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words behind the program's name; None takes those of this process.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    with hidden_output(words):
        return _run(words)


def _run(words: list[str]) -> int:
    """Carry out a command; the exit code."""
    parser, alone, tables = _parsers()
    if not words:
        parser.print_help()
        return _FINISHED
    try:
        # Settings and flags may come in any order, which argparse takes from one parser alone.
        match words:
            case ["train", *rest]:
                return _train(alone["train"].parse_intermixed_args(rest))
            case ["compile", *rest]:
                fits = run_compile_command(alone["compile"].parse_intermixed_args(rest))
                return _FINISHED if fits else _FAILED
            case ["plan", *rest]:
                run_plan_command(alone["plan"].parse_intermixed_args(rest))
                return _FINISHED
            case ["doctor", *rest]:
                well = run_doctor_command(alone["doctor"].parse_intermixed_args(rest))
                return _FINISHED if well else _FAILED
            case ["data", "describe", *rest]:
                options = alone["describe"].parse_intermixed_args(rest)
                options.run(options)
                return _FINISHED
            case ["tables", name, *rest] if name in tables:
                options = tables[name].parse_intermixed_args(rest)
                options.run(options)
                return _FINISHED
        options = parser.parse_args(words)
        code: int | None = options.run(options)
        return _FINISHED if code is None else code
    except BAD_INPUT as error:
        return _say_error(error, _BAD_INPUT)
    except EmberayError as error:
        return _say_error(error, _FAILED)
    except KeyboardInterrupt:
        return _INTERRUPTED


type _Parsers = Mapping[str, argparse.ArgumentParser]


def _parsers() -> tuple[argparse.ArgumentParser, _Parsers, _Parsers]:
    """The parser of the command line, and those that ``main`` uses by themselves.

    The latter are those of commands, and of the commands below ``tables``, by name.
    """
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator",
        description="emberay: train recommender models with huge embedding tables on many hosts.",
    )
    commands = commands_below(parser)
    train = commands.add_parser(
        "train",
        help="train a program; without anything else, a ready one on two local hosts",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Train a program. Options are set in a YAML file, or as key=value words, which come\n"
            "after it; values are YAML, and dots lead into sections: checkpoints.every=50."
        ),
        epilog=f"options (key: type = default):\n{options_table()}",
    )
    train.add_argument(
        "settings",
        nargs="*",
        metavar="config.yaml | key=value",
        help="a configuration file, and options that override it",
    )
    train.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --run-dir, with its settings where none are given; start it, "
        "if there is none",
    )
    train.add_argument(
        "--run-dir", metavar="DIR", help="the run's folder (default: runs/<program>-<time>)"
    )
    alone = {
        "train": train,
        "compile": add_compile_command(commands),
        "plan": add_plan_command(commands),
        "doctor": add_doctor_command(commands),
        "describe": add_data_commands(commands),
    }
    tables = add_table_commands(commands)
    add_report_command(commands)
    add_predict_command(commands)
    add_export_command(commands)
    add_experiment_command(commands)
    return parser, alone, tables


def _train(options: argparse.Namespace) -> int:
    overrides = [word for word in options.settings if "=" in word]
    files = [word for word in options.settings if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"one configuration file at most, but {len(files)} are given: {files}")
    if options.resume and options.run_dir is None:
        raise ConfigError("--resume needs --run-dir, to know which run to go on with")
    config = load_config(files[0] if files else _resumed_config(options), overrides)

    from orchestrator.driver import Driver
    from orchestrator.observe import summary_table

    with Driver(config, options.run_dir, resume=options.resume) as driver:
        summary = driver.fit()
    RichConsole().print(summary_table(summary))
    return _INTERRUPTED if summary.status == "interrupted" else _FINISHED


def _resumed_config(options: argparse.Namespace) -> Path | None:
    """The settings of the run that is to go on, where the command names no file."""
    kept = Path(options.run_dir) / "config.yaml" if options.resume else None
    return kept if kept is not None and kept.is_file() else None


def _say_error(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
