"""Deletes the checkpoints of a run that are not to be kept, as events tell of new ones."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from orchestrator import events
from orchestrator.config import CheckpointConfig
from orchestrator.policies import checkpoints_to_delete
from orchestrator.progress import History

__all__ = ["Retention"]

_LOGGER = logging.getLogger(__name__)
_OCCASIONS = (events.CheckpointStarted, events.Evaluated, events.Finished, events.Interrupted)
_DELETED = re.compile(r"\d+\.deleted")


class Retention:
    """A sink of events that deletes checkpoints; it decides by ``policies.checkpoints_to_delete``.

    A checkpoint is renamed to ``<step>.deleted`` before its files are removed, so it is there in
    full or not at all; what a driver that was killed leaves under such a name is removed next time.

    Args:
        folder: Folder of the run's checkpoints.
        settings: What to keep.
        history: What earlier drivers of the run left behind.
        is_whole: Whether the files of a checkpoint are all there, by its folder.
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointConfig,
        history: History,
        is_whole: Callable[[Path], bool],
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._evaluations = dict(history.evaluations)
        self._recorded = max((last for _, last, _ in history.leases), default=0)
        self._is_whole = is_whole

    def __call__(self, time: float, event: events.Event) -> None:
        """Take note of an event, and delete where it may have made a checkpoint superfluous."""
        match event:
            case events.Restored():
                self._recorded = event.step
                known = self._evaluations.items()
                self._evaluations = {at: figures for at, figures in known if at <= event.step}
            case events.LeaseDone():
                self._recorded = event.last
            case events.Evaluated():
                self._evaluations[event.step] = dict(event.metrics)
            case _:
                pass
        if isinstance(event, _OCCASIONS):
            self._clean()

    def _clean(self) -> None:
        """Delete; what the file system refuses is tried again next time."""
        try:
            if not self._folder.is_dir():
                return
            names = [entry.name for entry in self._folder.iterdir() if entry.is_dir()]
            committed = [int(name) for name in names if name.isdecimal()]
            verified = [step for step in committed if self._is_whole(self._folder / str(step))]
            for step in checkpoints_to_delete(
                committed, verified, self._evaluations, self._recorded, self._settings
            ):
                (self._folder / str(step)).rename(self._folder / f"{step}.deleted")
                names.append(f"{step}.deleted")
            for name in filter(_DELETED.fullmatch, names):
                shutil.rmtree(self._folder / name)
        except OSError as error:
            _LOGGER.warning(
                "old checkpoints in '%s' could not be deleted, which is tried again later: %s",
                self._folder,
                error,
            )
