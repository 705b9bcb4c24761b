"""The base of every error this project raises on purpose, and those of the kernels.

    EmberayError
    ├── SpecError            a table, feature or topology that cannot work
    └── LimitsExceeded       a batch needs more room than the plan's limits give

Every message names the thing, the value, the place and the fix. All of them survive pickling, as
they cross process boundaries.
"""

from __future__ import annotations

__all__ = ["EmberayError", "LimitsExceeded", "SpecError"]


class EmberayError(Exception):
    """Base class: catch it to catch everything emberay raises on purpose."""


class SpecError(EmberayError, ValueError):
    """A table, feature, optimizer or topology is specified in a way that cannot work."""


class LimitsExceeded(EmberayError, ValueError):
    """A batch holds more ids for one partition than the plan has room for.

    Attributes:
        stack: Name of the stacked table.
        limit: Name of the limit, for example ``max_ids_per_partition``.
        allowed: The limit's value in the plan.
        observed: What the batch needs.
    """

    def __init__(self, stack: str, limit: str, allowed: int, observed: int) -> None:
        self.stack = stack
        self.limit = limit
        self.allowed = allowed
        self.observed = observed
        super().__init__(
            f"table stack '{stack}': {limit} {allowed} is too small: a batch needs {observed}; "
            f'raise it to at least {observed} or pass limits="auto"'
        )

    def __reduce__(self) -> tuple[type[LimitsExceeded], tuple[str, str, int, int]]:
        return type(self), (self.stack, self.limit, self.allowed, self.observed)
