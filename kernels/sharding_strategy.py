"""How rows are spread over SparseCores, by name and by number."""

from __future__ import annotations

import enum

from kernels.errors import SpecError

__all__ = ["ShardingStrategy", "sharding_strategy_to_enum"]


class ShardingStrategy(enum.Enum):
    """Ways of spreading the rows of a table. The value is what XLA's custom calls are given."""

    MOD = 1
    """Row ``r`` is on SparseCore ``r mod S``."""


def sharding_strategy_to_enum(sharding_strategy: str) -> ShardingStrategy:
    """The strategy of that name, in upper or lower case.

    Raises:
        SpecError: If there is none.
    """
    if sharding_strategy.upper() == "MOD":
        return ShardingStrategy.MOD
    raise SpecError(f"Unsupported sharding strategy: {sharding_strategy}; use 'MOD'")
