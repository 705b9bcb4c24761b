"""What can go wrong on a host on purpose.

EmberayError (kernels.errors)
├── ProgramError         the user's program cannot be loaded or is inconsistent
├── DataError            the data cannot be trained on as it is
├── PlanMismatch         a host's plan, or a checkpoint's, is not the driver's
├── CheckpointError      a checkpoint cannot be read
├── StorageFull          there is no room to save one
├── ChipsTaken           another process has the host's TPU chips
└── NonFiniteLoss        the loss became NaN or infinite
"""

from __future__ import annotations

from kernels.errors import EmberayError

__all__ = [
    "CheckpointError",
    "ChipsTaken",
    "DataError",
    "NonFiniteLoss",
    "PlanMismatch",
    "ProgramError",
    "StorageFull",
]


class ProgramError(EmberayError):
    """The program a config names cannot be imported, called or understood."""


class DataError(EmberayError):
    """The data is missing, has the wrong columns or types, or holds a value it must not."""


class PlanMismatch(EmberayError):
    """A host's specs or a checkpoint do not fit the driver's plan: other code or another config."""


class CheckpointError(EmberayError):
    """The content of a committed checkpoint cannot be read."""


class StorageFull(EmberayError):
    """There is no room for another checkpoint."""


class ChipsTaken(EmberayError):
    """Another process of the machine has its TPU chips; the message names it."""


class NonFiniteLoss(EmberayError):
    """A loss, gradient or activation is NaN or infinite; the message names where.

    Attributes:
        step: The step whose batch it came up with.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        self.step = step
        super().__init__(message)

    def __reduce__(self) -> tuple[type[NonFiniteLoss], tuple[str, int | None]]:
        return type(self), (str(self), self.step)
