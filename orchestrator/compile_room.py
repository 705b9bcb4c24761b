"""A SparseCore's own memory, by the compiler's words: for how many different ids it has room.

For every table a SparseCore keeps something of each different id that one partition may have, and
it has little memory of its own: 262,112 bytes on v6e, which are some 7,000 ids of width 16. Beyond
that XLA's TPU compiler (libtpu 0.0.52) refuses the step, and tells its sizes:

    CompileTimeSparseCoreInvalidReplicaCount: ... max_unique_nz_per_row = 50000, feature_width = 16,
    ... fixed_size_allocation_bytes = 1801024, ... total_spmem_size_bytes = 262112
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from orchestrator.compile_cases import Estimate, StackMemory

__all__ = ["SparsecoreRoom"]

_REFUSED = "CompileTimeSparseCoreInvalidReplicaCount"
_ALIGNED = 8
"""Limits are multiples of it, and widths are padded to one."""
_USABLE = 0.9
"""Share that ids may take: some more is needed that does not grow with them."""


@dataclass(frozen=True)
class SparsecoreRoom:
    """What the compiler said of the table that it refused."""

    width: int
    """Of its rows."""
    bytes_per_id: float
    """Of a SparseCore's own memory, for every different id that a partition may have."""
    total: int
    """Bytes that there are."""

    @classmethod
    def told_in(cls, refusal: str) -> Self | None:
        """What a refusal says of it; None if it is about something else."""
        names = ("max_unique_nz_per_row", "feature_width", "fixed_size_allocation_bytes")
        found = [
            re.search(rf"\b{name} = (\d+)", refusal) for name in (*names, "total_spmem_size_bytes")
        ]
        if _REFUSED not in refusal or not all(found):
            return None
        ids, width, taken, total = (int(match[1]) for match in found if match)
        return cls(width, taken / ids, total) if ids else None

    def ids(self, stack: StackMemory) -> int:
        """The largest ``max_unique_ids_per_partition`` that the stack should have room for."""
        width = -(-max(table.width for table in stack.tables) // _ALIGNED) * _ALIGNED
        one = self.bytes_per_id * max(1.0, width / self.width)
        return int(_USABLE * self.total / one) // _ALIGNED * _ALIGNED

    def crowded(self, computed: Estimate) -> list[StackMemory]:
        """The stacks that may have more different ids in a partition than there is room for."""
        return [
            stack
            for stack in computed.stacks
            if stack.max_unique_ids_per_partition > self.ids(stack)
        ]
