"""Small things several modules need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import jax

from kernels.errors import SpecError

__all__ = [
    "SPARSECORES_PER_DEVICE",
    "DeviceLike",
    "check_num_sparsecores",
    "name_list",
    "num_sparsecores_per_device",
    "round_up",
    "tree_leaves",
]

SPARSECORES_PER_DEVICE: dict[str, int] = {
    "TPU v5": 4,
    "TPU v5p": 4,
    "TPU v6e": 2,
    "TPU v6 lite": 2,
    "TPU7x": 2,
}
"""SparseCores by ``device_kind``. Source: Google Cloud's TPU system architecture pages."""


class DeviceLike(Protocol):
    """What is asked of a device."""

    @property
    def device_kind(self) -> str:
        """The device's model name."""
        ...

    @property
    def platform(self) -> str:
        """``cpu``, ``gpu`` or ``tpu``."""
        ...


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``value``."""
    return -(-value // multiple) * multiple


def num_sparsecores_per_device(device: DeviceLike | None = None) -> int:
    """SparseCores of a device (of the first device if none is given).

    A device of a platform that has no SparseCores counts as one.

    Raises:
        SpecError: If the device is a TPU whose SparseCores are not known.
    """
    chosen = jax.devices()[0] if device is None else device
    if chosen.platform != "tpu":
        return 1
    if chosen.device_kind not in SPARSECORES_PER_DEVICE:
        raise SpecError(
            f"device kind '{chosen.device_kind}' has no known number of SparseCores (known: "
            f"{', '.join(SPARSECORES_PER_DEVICE)}); pass num_sc_per_device=..."
        )
    return SPARSECORES_PER_DEVICE[chosen.device_kind]


def check_num_sparsecores(num_sc_per_device: int | None) -> int:
    """The number given, or that of the first device of this process if it is None.

    Raises:
        SpecError: If the number is below 1.
    """
    if num_sc_per_device is None:
        return num_sparsecores_per_device()
    if num_sc_per_device < 1:
        raise SpecError(f"num_sc_per_device is {num_sc_per_device}; give at least 1")
    return num_sc_per_device


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of a nesting of specs or host arrays, mappings in order of their keys."""
    return jax.tree.leaves(tree)


def name_list(names: Iterable[str]) -> str:
    """Names, sorted and quoted, for messages."""
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
