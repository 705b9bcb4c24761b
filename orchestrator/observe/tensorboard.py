"""Curves for TensorBoard."""

from __future__ import annotations

import math
from pathlib import Path

from tensorboardX import SummaryWriter

from orchestrator import events
from orchestrator.events import Event
from workers.norm_histogram import NormHistogram

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes figures as they come.

    ``train/loss`` for every step, ``train/examples_per_second`` for every lease, and the figures of
    every evaluation, such as ``test/auc``, with histograms ``row_norms/<table>``; the step is the
    number of steps done.

    Args:
        folder: Where the event files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._files = 0

    def __call__(self, time: float, event: Event) -> None:
        """See ``orchestrator.events.Sink``."""
        match event:
            case events.LeaseDone():
                for step, loss in enumerate(event.losses, event.first):
                    self._scalar("train/loss", loss, step + 1, time)
                if event.losses and event.elapsed > 0:
                    speed = event.examples / event.elapsed
                    self._scalar("train/examples_per_second", speed, event.last, time)
            case events.Evaluated():
                for name, value in event.metrics.items():
                    self._scalar(f"{event.split}/{name}", value, event.step, time)
            case events.RowNorms():
                for table, norms in event.tables.items():
                    self._histogram(f"row_norms/{table}", norms, event.step, time)
            case events.Restored(step=step):
                # A new file with a purge step makes TensorBoard forget what lay beyond it.
                self.close()
                self._folder.mkdir(parents=True, exist_ok=True)
                self._files += 1
                # Names tell seconds only, and two of the same second would be one file.
                suffix = f".{self._files:04d}"
                self._writer = SummaryWriter(
                    str(self._folder), purge_step=step + 1, filename_suffix=suffix
                )
            case _:
                pass

    def close(self) -> None:
        """Flush and close; may be called twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _scalar(self, name: str, value: float, step: int, time: float) -> None:
        if self._writer is not None and math.isfinite(value):
            self._writer.add_scalar(name, value, step, walltime=time)

    def _histogram(self, name: str, norms: NormHistogram, step: int, time: float) -> None:
        buckets = norms.buckets()
        if self._writer is None or norms.least is None or norms.most is None:
            return
        self._writer.add_histogram_raw(
            name,
            min=norms.least,
            max=norms.most,
            num=norms.finite,
            sum=norms.total,
            sum_squares=norms.squares,
            bucket_limits=[high for _, high, _ in buckets],
            bucket_counts=[count for _, _, count in buckets],
            global_step=step,
            walltime=time,
        )
