"""What a run came to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from orchestrator.controller import Controller
from orchestrator.json_lines import replace_text, to_json

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """The result of ``Driver.fit``, and the content of ``summary.json``."""

    status: Literal["finished", "interrupted", "failed"]
    run_folder: str
    program: str
    """Name of the program."""
    steps: int
    """Steps done."""
    epochs: int
    """Complete passes over the training split."""
    examples: int
    """Real samples trained on the way to the final state."""
    examples_per_second: float
    """Of the leases this driver led, compiling left out; 0 if it led none."""
    seconds: float
    """Wall seconds of this driver, from its call to its end."""
    goodput: Mapping[str, float]
    """Those seconds by kind (see ``orchestrator.goodput.KINDS``)."""
    metrics: Mapping[str, Mapping[str, float | None]]
    """``train``: the last epoch's samples, each predicted before it was learned from; ``test``: the
    last evaluation. Figures: ``auc``, ``normalised_entropy``, ``loss``, ``calibration``,
    ``accuracy``, ``examples``; of ``test`` also ``recall@k`` and ``ndcg@k``, if the program has a
    ranking. ``best_possible``, where the truth behind the data is known: ``auc``,
    ``auc_error`` and ``loss`` of predicting the true probabilities."""
    restarts: int
    """Recoveries in the whole life of the run."""
    hosts: int
    """As many as there were at the end."""
    devices: int
    error: str | None = field(default=None)
    """Why the run failed."""
    recoveries: Sequence[Mapping[str, float]] = field(default_factory=list)
    """Seconds of each recovery that this driver led, by part (``orchestrator.observe.recoveries``),
    and their ``total``."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Busy seconds of the data pipeline's stages, averaged over hosts, in this driver's leases."""
    slowest_stage: str | None = None
    """The stage that was busy longest: it decides how fast batches can come."""
    quarantined: int = 0
    """Rows of the data that were left out, as ``quarantine`` allows; ``quarantine/`` in the run's
    folder tells of each."""

    @property
    def goodput_share(self) -> float:
        """Share of the wall time in which new steps were trained, from 0 to 1."""
        return self.goodput.get("training", 0.0) / self.seconds if self.seconds > 0 else 0.0

    @classmethod
    def of(
        cls,
        controller: Controller,
        *,
        status: Literal["finished", "interrupted", "failed"],
        run_folder: Path,
        program: str,
        goodput: Mapping[str, float],
        best_possible: Mapping[str, float] | None = None,
        recoveries: Sequence[Mapping[str, float]] = (),
        error: str | None = None,
    ) -> Self:
        """The summary of a run whose controller has come to an end, or is left."""
        from workers.data.quarantine import quarantined_rows

        progress, config = controller.progress, controller.config
        seconds = progress.lease_seconds_here
        metrics: dict[str, Mapping[str, float | None]] = {"train": progress.train_metrics.result()}
        if progress.evaluations:
            metrics["test"] = progress.evaluations[max(progress.evaluations)]
        if best_possible is not None:
            metrics["best_possible"] = best_possible
        stages = progress.stages_here
        return cls(
            status=status,
            run_folder=str(run_folder),
            program=program,
            steps=progress.step,
            epochs=progress.step // controller.schedule.steps_per_epoch,
            examples=progress.examples,
            examples_per_second=progress.examples_here / seconds if seconds > 0 else 0.0,
            seconds=sum(goodput.values()),
            goodput=dict(goodput),
            metrics=metrics,
            restarts=controller.restarts.total,
            hosts=controller.sizing.hosts,
            devices=controller.sizing.hosts * config.devices_per_host,
            error=error,
            recoveries=list(recoveries),
            stages=dict(stages),
            slowest_stage=max(stages, key=lambda stage: stages[stage], default=None),
            quarantined=quarantined_rows(run_folder / "quarantine"),
        )

    def write(self, path: Path) -> None:
        """Write it as JSON, all or nothing."""
        replace_text(path, [to_json(dataclasses.asdict(self), indent=2), "\n"])

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` has written."""
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**values)
