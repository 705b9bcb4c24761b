"""The command line's ``export``: a run's model and tables in a folder to serve from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator
from rich.console import Console

from orchestrator.chosen_step import chosen_step
from orchestrator.command_groups import Commands
from orchestrator.config import RunConfig
from orchestrator.config_loading import parse_override
from orchestrator.config_sections import Positive, Section
from orchestrator.errors import ConfigError
from orchestrator.kept_config import KeptConfig
from orchestrator.predict_settings import explain_option

if TYPE_CHECKING:
    from workers.program import Program

__all__ = ["ExportSettings", "add_export_command"]


class ExportSettings(Section):
    """Options of ``export``."""

    step: int | str = "newest"
    """Checkpoint: ``newest``, ``best``, or a step."""
    method: list[str] = Field(default=[])
    """Methods of the model that become functions; unset, the program's choice."""
    batch: Positive | None = None
    """Rows of a batch, for models that need a fixed number; unset, any number."""

    @field_validator("method", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """``method=queries,candidates`` means what ``method=[queries, candidates]`` does."""
        return value.split(",") if isinstance(value, str) else value


def add_export_command(commands: Commands) -> None:
    """Add ``export`` to a command line."""
    lines = [
        f"  {name:<7} {' '.join(str(field.description).split())}"
        for name, field in ExportSettings.model_fields.items()
    ]
    command = commands.add_parser(
        "export",
        help="take a model out for serving, with its tables: needs jax and numpy alone",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Write a folder with a run's model and tables: lookup and model as one function\n"
            "(StableHLO, by jax.export), what turns columns into ids, and a loader that needs jax\n"
            "and numpy alone."
        ),
        epilog="options:\n" + "\n".join(lines),
    )
    command.add_argument("run_folder", metavar="RUN", help="folder of the run")
    command.add_argument("output", metavar="OUT", help="folder to make")
    command.add_argument("settings", nargs="*", metavar="key=value", help="step=best and others")
    command.set_defaults(run=_export)


def _settings(words: Sequence[str]) -> ExportSettings:
    """The options.

    Raises:
        ConfigError: A key is unknown or a value cannot be used.
    """
    values: dict[str, Any] = {}
    for word in words:
        keys, value = parse_override(word)
        name = ".".join(keys)
        if name not in ExportSettings.model_fields:
            known = ", ".join(ExportSettings.model_fields)
            raise ConfigError(f"export has no option '{name}'; it has {known}")
        values[name] = value
    try:
        return ExportSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain_option(error)) from None


def _export(options: argparse.Namespace) -> None:
    from workers.program import load_program
    from workers.saved_tables import SavedTables
    from workers.serving.export import export_serving

    folder = Path(options.run_folder)
    kept = KeptConfig.of(folder)
    settings = _settings([word for word in options.settings if not kept.lacks(word)])
    config = kept.with_words(filter(kept.lacks, options.settings))
    program = load_program(config.program, config.parameters)
    step = chosen_step(folder, config, settings.step)
    made = export_serving(
        program,
        SavedTables(folder, program, step),
        options.output,
        methods=settings.method,
        batch=settings.batch,
        columns=_types(program, config),
    )
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    line = f"the model after step {step} and its tables, {size / 2**20:,.1f} MiB: {made}"
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


def _types(program: Program, config: RunConfig) -> dict[str, str]:
    """Types of the columns of the run's data; none where it is not to be had any more."""
    from workers.data.sources import open_dataset
    from workers.errors import DataError
    from workers.planning import resolve_data

    columns = program.schema.columns - {program.label}
    try:
        data = open_dataset(resolve_data(program, config.data), "train", columns)
    except (DataError, OSError):
        return {}
    return {field.name: str(field.type) for field in data.schema if field.name in columns}
