"""Predictions of a trained run over Parquet data, written as Parquet.

    OUT/part-000000.parquet …     every row once; in the order of the names, that of the data
        _predictions.json         what was predicted, and with what
        _quarantine/              rows that could not be used, if that was allowed

Until all parts are there, they are in ``.OUT.predicting`` beside it, where the same command goes on
with those that are missing.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.chosen_step import chosen_step
from orchestrator.cluster import open_hosts
from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from orchestrator.json_lines import replace_text, to_json
from orchestrator.planning import LaunchPlanner
from orchestrator.predict_settings import PredictSettings
from orchestrator.prediction_run import PredictionRun
from orchestrator.signals import stop_on_signals
from workers.prediction_protocol import PredictionSpec
from workers.redaction import Redactor, hide_addresses

if TYPE_CHECKING:
    from workers.data.dataset import Dataset
    from workers.program import Program

__all__ = ["Predictions", "predict"]

_ABOUT = "_predictions.json"


@dataclass(frozen=True)
class Predictions:
    """What `predict` has written."""

    folder: Path
    step: int
    """Of the checkpoint."""
    rows: int
    parts: int
    kept_parts: int
    """Parts that were there before."""
    unusable: int
    """Rows without a prediction."""
    seconds: float
    """From the launch of the hosts to their end; 0 if nothing was left to do."""


def predict(
    run_folder: Path,
    settings: PredictSettings,
    config: RunConfig,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Predictions:
    """Predict every row of the data once.

    Args:
        run_folder: Folder of the run that trained.
        settings: What to predict, and where to write it.
        config: The run's configuration, as it is to run now: see
            `orchestrator.predict_settings.predict_settings`.
        say: Takes lines for people.
        progress: Told rows that are written, and all rows.

    Raises:
        Interrupted: Somebody asked to stop (SIGINT, SIGTERM); the same call goes on.
        EmberayError: The input cannot be used, or hosts failed.
    """
    from workers.data.index import write_index
    from workers.data.quarantine import quarantined_rows
    from workers.prediction_data import open_predicted
    from workers.prediction_files import whole_parts
    from workers.program import load_program
    from workers.scoring import columns_of, scoring_method

    program = load_program(config.program, config.parameters)
    step = chosen_step(run_folder, config, settings.step)
    target = Path(settings.out).absolute()
    draft = target.with_name(f".{target.name}.predicting")
    spec = _spec(program, settings, config, run_folder, draft)
    spec = replace(spec, method=scoring_method(program, settings.method))
    _check(program, spec, config, run_folder, step)
    data = open_predicted(program, spec, columns_of(spec.method))
    about = _about(program, spec, data, step, run_folder)
    parts = {
        part: len(spec.rows_of(part, data.rows)) for part in range(-(-data.rows // spec.part_rows))
    }
    if target.exists():
        found = json.loads(file.read_text()) if (file := target / _ABOUT).is_file() else {}
        if {name: found.get(name) for name in about} != about:
            raise ConfigError(f"out: '{settings.out}' exists already: remove it, or name another")
        return Predictions(
            target, step, data.rows, len(parts), len(parts), found.get("unusable", 0), 0.0
        )
    with _begun(draft, about):
        kept = whole_parts(draft, parts)
        left = [part for part in parts if part not in kept]
        started = time.monotonic()
        if left:
            hide = Redactor.of(config.model_dump(), {"data": spec.data}, os.environ)
            told = (lambda line: say(hide(line)), progress)
            index = write_index(Path(spec.run_folder), {spec.split: data})
            spec = replace(spec, data_index=index)
            _lead(program, spec, config, data, step, left, parts, *told)
        seconds = time.monotonic() - started if left else 0.0
        unusable = quarantined_rows(Path(spec.run_folder) / "quarantine")
        replace_text(draft / _ABOUT, [to_json({**about, "unusable": unusable}, indent=2), "\n"])
        if (quarantine := Path(spec.run_folder) / "quarantine").exists():
            quarantine.rename(draft / "_quarantine")
        shutil.rmtree(spec.run_folder)
        draft.replace(target)
    return Predictions(target, step, data.rows, len(parts), len(kept), unusable, seconds)


def _spec(
    program: Program, settings: PredictSettings, config: RunConfig, run_folder: Path, draft: Path
) -> PredictionSpec:
    """What every host is told, but for the method."""
    from workers.data.files import absolute_data
    from workers.data.sources import has_split
    from workers.planning import resolve_data

    data = absolute_data(resolve_data(program, settings.data or config.data))
    holdout, split = config.holdout.chosen(), settings.split
    if split is None:
        if has_split(data, "test"):
            raise ConfigError(
                f"data '{data}' has a 'test' split beside 'train': say which, as in split=test"
            )
        holdout = None  # all rows
    run = config.run_spec(data, str(draft / "_work"))
    fields = {name: getattr(run, name) for name in run.__dataclass_fields__}
    told: dict[str, Any] = {
        "quarantine": settings.quarantine,
        "holdout": None if has_split(data, "test") else holdout,
        "session": secrets.token_hex(8),
        "trained": str(run_folder.absolute()),
        "output": str(draft),
        "split": split or "train",
        "keep": tuple(settings.keep),
        "part_rows": settings.part_rows,
    }
    return PredictionSpec(**fields | told)


def _check(
    program: Program, spec: PredictionSpec, config: RunConfig, run_folder: Path, step: int
) -> None:
    """Refuse what metadata can tell will not work."""
    from workers.planning import check_batch_size
    from workers.saved_tables import SavedTables

    for hosts in (config.hosts, *config.elastic.sizes):
        check_batch_size(spec, hosts)
    SavedTables(run_folder, program, step)


def _about(
    program: Program, spec: PredictionSpec, data: Dataset, step: int, run_folder: Path
) -> dict[str, Any]:
    """What must be the same for a command that goes on."""
    from workers.planning import data_fingerprint

    return {
        "run": str(run_folder.absolute()),
        "step": step,
        "program": program.fingerprint(),
        "method": spec.method,
        "data": hide_addresses(spec.data),
        "split": spec.split,
        "fingerprint": data_fingerprint({spec.split: data}),
        "rows": data.rows,
        "keep": list(spec.keep),
        "part_rows": spec.part_rows,
    }


@contextmanager
def _begun(draft: Path, about: dict[str, Any]) -> Iterator[None]:
    """The folder of parts, for this process alone, and for this prediction.

    Raises:
        ConfigError: Another process works in it, or it is of another prediction.
    """
    (draft / "_work").mkdir(parents=True, exist_ok=True)
    lock = os.open(draft / "_work" / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another process writes predictions to '{draft}': wait for it, or name another out"
            ) from error
        file = draft / _ABOUT
        before = json.loads(file.read_text()) if file.exists() else about
        if before != about:
            name = next(key for key in about if before.get(key) != about[key])
            raise ConfigError(
                f"'{draft}' holds parts of other predictions ({name} was {before.get(name)!r} and "
                f"is now {about[name]!r}): remove it to begin anew, or name another out"
            )
        replace_text(file, [to_json(about, indent=2), "\n"])
        yield
    finally:
        os.close(lock)


def _lead(
    program: Program,
    spec: PredictionSpec,
    config: RunConfig,
    data: Dataset,
    step: int,
    left: list[int],
    parts: dict[int, int],
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> None:
    """Have hosts write the parts that are left."""
    from workers.planning import data_fingerprint

    written = sum(parts.values()) - sum(parts[part] for part in left)

    def done(_: int, rows: int) -> None:
        nonlocal written
        written += rows
        progress(written, data.rows)

    progress(written, data.rows)
    with ExitStack() as stack:
        run = PredictionRun(
            config,
            open_hosts(spec, config, stack, "workers.prediction_host:PredictionHost"),
            LaunchPlanner(program, spec, {}),
            data=data_fingerprint({spec.split: data}),
            step=step,
            parts=left,
            say=say,
            done=done,
        )

        def stop(_: int) -> None:
            run.stopping = True

        with stop_on_signals(stop):
            run.lead()
