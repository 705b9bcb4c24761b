"""Which checkpoints are kept, which evaluations are best, and when they end a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import events
from orchestrator.config import CheckpointConfig, EarlyStoppingConfig
from orchestrator.config_loading import make_config
from orchestrator.errors import ConfigError
from orchestrator.policies import (
    best_steps,
    checkpoint_to_restore,
    checkpoints_to_delete,
    evaluation_due,
    next_lease,
    save_due,
    stop_early,
)
from orchestrator.progress import History, Progress
from orchestrator.retention import Retention
from orchestrator.schedule import Schedule

STEPS = st.lists(st.integers(1, 60), unique=True, max_size=12)
FIGURES = st.floats(0, 1) | st.just(math.nan)


def auc(figures: dict[int, float]) -> dict[int, dict[str, float]]:
    return {step: {"auc": figure} for step, figure in figures.items()}


@given(
    committed=STEPS,
    bad=st.sets(st.integers(1, 60)),
    figures=st.dictionaries(st.integers(1, 60), FIGURES, max_size=10),
    recorded=st.integers(0, 60),
    settings=st.builds(
        CheckpointConfig,
        keep=st.integers(1, 4),
        keep_every=st.none() | st.integers(1, 20),
        keep_best=st.integers(0, 3),
        best_mode=st.sampled_from(["max", "min"]),
    ),
)
def test_what_may_be_deleted(
    committed: list[int],
    bad: set[int],
    figures: dict[int, float],
    recorded: int,
    settings: CheckpointConfig,
) -> None:
    verified = set(committed) - bad
    deleted = checkpoints_to_delete(committed, verified, auc(figures), recorded, settings)
    assert set(deleted) <= set(committed)
    assert list(deleted) == sorted(deleted)
    left = set(committed) - set(deleted)
    assert set(sorted(committed)[-settings.keep :]) <= left
    every = settings.keep_every
    assert every is None or not any(step % every == 0 for step in deleted)
    if verified:
        assert max(verified) in left, "the newest verified checkpoint is never deleted"
        assert checkpoint_to_restore(verified, recorded) in left
    assert checkpoint_to_restore(committed, recorded) == checkpoint_to_restore(left, recorded)
    sign = 1 if settings.best_mode == "max" else -1
    known = [s for s in committed if s in figures and not math.isnan(figures[s])]
    best = sorted(known, key=lambda s: (-sign * figures[s], s))[: settings.keep_best]
    assert set(best) <= left
    # Nothing is kept without a reason.
    assert len(left) <= settings.keep + 3 + len(best) + sum(
        1 for step in committed if every is not None and step % every == 0
    )
    # Deciding again changes nothing.
    assert checkpoints_to_delete(left, verified & left, auc(figures), recorded, settings) == ()


def test_the_best_checkpoint_outlives_newer_ones() -> None:
    settings = CheckpointConfig(keep=2, keep_every=100, keep_best=1)
    figures = auc({20: 0.7, 40: 0.9, 60: 0.8, 80: math.nan})
    steps = [20, 40, 60, 80, 100, 120, 140, 160]
    assert checkpoints_to_delete(steps, steps, figures, 160, settings) == (20, 60, 80, 120)


def test_best_steps_knows_ties_modes_and_nan() -> None:
    figures = auc({1: 0.5, 2: 0.7, 3: 0.7, 4: math.nan, 5: 0.2})
    assert best_steps(figures, "auc", "max", 2) == (2, 3)
    assert best_steps(figures, "auc", "min", 9) == (5, 1, 2, 3)
    assert best_steps(figures, "auc", "max", 0) == ()
    with pytest.raises(ConfigError, match=r"best_metric is 'ndcg@10', but .* it has auc"):
        best_steps(figures, "ndcg@10", "max", 1)


@pytest.mark.parametrize(
    ("figures", "patience", "min_delta", "mode", "stops"),
    [
        ([0.5, 0.6, 0.6, 0.6], 2, 0.0, "max", True),
        ([0.5, 0.6, 0.6, 0.61], 2, 0.0, "max", False),
        ([0.5, 0.6, 0.6, 0.61], 2, 0.02, "max", True),
        ([0.5, 0.51, 0.52, 0.53], 2, 0.02, "max", False),
        ([0.5, 0.4, 0.3], 1, 0.0, "min", False),
        ([0.5, 0.4, 0.4], 1, 0.0, "min", True),
        ([0.5, 0.4], 0, 0.0, "min", False),
        ([math.nan, math.nan], 2, 0.0, "max", True),
        ([math.nan, 0.1], 2, 0.0, "max", False),
        ([], 1, 0.0, "max", False),
    ],
)
def test_early_stopping(
    figures: list[float], patience: int, min_delta: float, mode: str, stops: bool
) -> None:
    settings = EarlyStoppingConfig(
        patience=patience, min_delta=min_delta, mode="max" if mode == "max" else "min"
    )
    evaluations = auc({10 * (n + 1): figure for n, figure in enumerate(figures)})
    assert stop_early(dict(reversed(evaluations.items())), settings) == stops


def test_early_stopping_by_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"metric is 'accurracy', but .* it has auc"):
        stop_early(auc({1: 0.5}), EarlyStoppingConfig(patience=1, metric="accurracy"))


def test_evaluations_between_epochs_and_their_checkpoints() -> None:
    config = make_config(
        {
            "epochs": 2,
            "lease_steps": 7,
            "checkpoints": {"every": 100, "keep_best": 1},
            "evaluation": {"every_steps": 4},
        }
    )
    schedule = Schedule.of(config, 10)
    due = [step for step in range(21) if evaluation_due(schedule, step)]
    assert due == [4, 8, 10, 12, 16, 20]
    assert [step for step in range(21) if save_due(schedule, step)] == due
    step, ends = 0, []
    while step < schedule.total_steps:
        step = next_lease(schedule, step, 0, "hash").last
        ends.append(step)
    assert ends == due


@pytest.mark.parametrize(
    "values",
    [{"checkpoints": {"keep_best": 2}}, {"evaluation": {"early_stopping": {"patience": 3}}}],
)
def test_nothing_to_evaluate_by(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="no test split to evaluate"):
        Schedule.of(make_config(values), 10, evaluates=False)
    Schedule.of(make_config(values), 10)


def test_progress_is_done_when_evaluations_cease_to_improve() -> None:
    config = make_config({"epochs": 9, "evaluation": {"early_stopping": {"patience": 1}}})
    progress = Progress(Schedule.of(config, 10), History(evaluations=auc({10: 0.6})))
    progress.restore(10)
    assert not progress.done
    progress.step = 20
    assert progress.evaluation_missing
    progress.evaluations[20] = {"auc": 0.6}
    assert progress.done
    assert progress.complete
    progress.restore(10)
    assert not progress.done


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def commit(folder: Path, step: int) -> None:
    (folder / str(step)).mkdir()
    (folder / str(step) / "file").write_text("content")


def test_checkpoints_are_deleted_as_events_come(tmp_path: Path) -> None:
    settings = CheckpointConfig(keep=1, keep_best=1)
    damaged = {"40"}
    retention = Retention(
        tmp_path, settings, History(evaluations=auc({10: 0.9})), lambda f: f.name not in damaged
    )
    for step in (10, 20, 30, 40):
        commit(tmp_path, step)
    (tmp_path / "5.deleted").mkdir()  # as a driver leaves it that is killed in between
    (tmp_path / "7.unreadable").mkdir()
    (tmp_path / "50.orbax-checkpoint-tmp").mkdir()
    retention(0.0, events.Restored(40))
    assert "20" in names(tmp_path)
    retention(0.0, events.CheckpointStarted(50))
    others = {"7.unreadable", "50.orbax-checkpoint-tmp"}
    assert names(tmp_path) == {"10", "30", "40"} | others, "30 is the newest verified one"
    commit(tmp_path, 50)
    retention(0.0, events.Evaluated(50, 1, "test", {"auc": 0.95}, 0.1))
    # The steps of 50 are not on record before the lease is: a restart would take 40, or else 30.
    assert names(tmp_path) == {"30", "40", "50"} | others
    retention(0.0, events.Restored(50))
    retention(0.0, events.Finished(50))
    assert names(tmp_path) == {"50"} | others


def test_what_cannot_be_deleted_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    retention = Retention(tmp_path, CheckpointConfig(keep=1), History(), lambda _: True)
    commit(tmp_path, 1)
    commit(tmp_path, 2)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "refused", str(path))

    monkeypatch.setattr("orchestrator.retention.shutil.rmtree", refuse)
    retention(0.0, events.Restored(2))
    retention(0.0, events.Finished(2))
    assert "tried again" in caplog.text
    assert names(tmp_path) == {"2", "1.deleted"}
    monkeypatch.undo()
    retention(0.0, events.Finished(2))
    assert names(tmp_path) == {"2"}
