"""What the driver and the hosts say to each other to predict, beside ``workers.protocol``.

    Join → Survey → Prepare(plan) → Restore(step)     as for training
    Predict(parts)         →   Predicted              … many times
    Finish()               →   Finished

The rows of the data, in their order, are cut into parts of the same number of rows, and each part
is one output file. A ``Predict`` gives every host a part of its own; as the tables are spread over
all of them, they walk through their parts in step.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.protocol import Command, Reply, RunSpec

__all__ = ["HostCommand", "HostReply", "Predict", "Predicted", "PredictionSpec", "part_name"]


@dataclass(frozen=True)
class PredictionSpec(RunSpec):
    """What every host must know to predict.

    ``data`` is the data to predict, ``run_folder`` a working folder; the run that trained is
    ``trained``.
    """

    trained: str = ""
    """Folder of the run whose checkpoint is read."""
    output: str = ""
    """Folder for the parts, writable from every host."""
    split: str = "train"
    """Split of the data; data without splits has all its rows in ``train``."""
    keep: tuple[str, ...] = ()
    """Columns of the data that are written beside the predictions."""
    method: str = "__call__"
    """Method of the model: see ``workers.scoring``."""
    part_rows: int = 1 << 20
    """Rows of a part; the last may have fewer."""

    def rows_of(self, part: int, rows: int) -> range:
        """The rows of a part, of data of so many rows."""
        return range(part * self.part_rows, min((part + 1) * self.part_rows, rows))


@dataclass(frozen=True)
class Predict:
    """Predict parts: the host of rank ``r`` the part ``parts[r]``; hosts beyond them help only."""

    parts: tuple[int, ...]


@dataclass(frozen=True)
class Predicted:
    """The host's part is written."""

    rank: int
    rows: int
    """Of the part; 0 if the host had none."""


type HostCommand = Command | Predict
type HostReply = Reply | Predicted


def part_name(part: int) -> str:
    """Name of a part's file: in the order of their names, parts are in the order of the rows."""
    return f"part-{part:06d}.parquet"
