"""The base of every error this project raises on purpose, and those of the kernels.

    EmberayError
    ├── SpecError            a table, feature or topology that cannot work
    ├── LimitsExceeded       a batch needs more room than the plan's limits give
    └── AllReduceError       the processes of a run cannot agree on how to encode a batch

Every message names the thing, the value, the place and the fix. All of them survive pickling, as
they cross process boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["AllReduceError", "EmberayError", "LimitsExceeded", "Overflow", "SpecError"]


class EmberayError(Exception):
    """Base class: catch it to catch everything emberay raises on purpose."""


class SpecError(EmberayError, ValueError):
    """A table, feature, optimizer or topology is specified in a way that cannot work."""


class AllReduceError(EmberayError, RuntimeError):
    """Another process cannot be reached, has ended, or does not answer in time."""


@dataclass(frozen=True)
class Overflow:
    """One limit that a batch goes beyond.

    Attributes:
        stack: Name of the stacked table.
        limit: Name of the limit: a field of `kernels.Limits`.
        allowed: The limit's value in the plan.
        observed: What the batch needs.
    """

    stack: str
    limit: str
    allowed: int
    observed: int

    def __str__(self) -> str:
        return (
            f"table stack '{self.stack}': {self.limit} {self.allowed} is too small: a batch needs "
            f"{self.observed}; raise it to at least {self.observed}"
        )


class LimitsExceeded(EmberayError, ValueError):
    """A batch holds more ids than the plan has room for.

    Attributes:
        overflows: Every limit the batch goes beyond, at least one.
        stack: Stack of the first one.
        limit: Name of the first one.
        allowed: Value of the first one in the plan.
        observed: What the batch needs of the first one.
    """

    def __init__(self, overflows: Sequence[Overflow]) -> None:
        self.overflows = tuple(overflows)
        first = self.overflows[0]
        self.stack, self.limit = first.stack, first.limit
        self.allowed, self.observed = first.allowed, first.observed
        super().__init__("; ".join(map(str, self.overflows)) + ', or pass limits="auto"')

    def __reduce__(self) -> tuple[type[LimitsExceeded], tuple[tuple[Overflow, ...]]]:
        return type(self), (self.overflows,)
