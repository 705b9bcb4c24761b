"""Small things several modules need, and the names of ``utils.utils`` of jax-tpu-embedding."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol

import jax

from kernels.errors import SpecError
from kernels.estimates import estimate_preprocessing_parameters
from kernels.table_format import (
    Layout,
    MeshLike,
    embedding_table_format,
    embedding_table_format_with_sharding,
    shard_emb_table,
    unshard_emb_table,
)

__all__ = [
    "EMULATED_SPARSECORES",
    "NUM_SC_PER_DEVICE_MAP",
    "DeviceLike",
    "Layout",
    "MeshLike",
    "check_num_sparsecores",
    "embedding_table_format",
    "embedding_table_format_with_sharding",
    "estimate_preprocessing_parameters",
    "name_list",
    "num_sparsecores_per_device",
    "round_up",
    "shard_emb_table",
    "tree_leaves",
    "unshard_emb_table",
]

NUM_SC_PER_DEVICE_MAP: dict[str, int] = {
    "TPU v5": 4,
    "TPU v5p": 4,
    "TPU v6e": 2,
    "TPU v6 lite": 2,
    "TPU7x": 2,
}
"""SparseCores by ``device_kind``. An entry may be added for any other kind: with
``NUM_SC_PER_DEVICE_MAP["cpu"] = 4`` a CPU device works as one with four SparseCores.
Source: Google Cloud's TPU system architecture pages."""

EMULATED_SPARSECORES: str = "EMBERAY_NUM_SC_PER_DEVICE"
"""Environment variable: SparseCores to emulate on a device that has none, where
`NUM_SC_PER_DEVICE_MAP` does not name it. 1 if it is not set."""


class DeviceLike(Protocol):
    """What is asked of a device."""

    @property
    def device_kind(self) -> str:
        """The device's model name."""
        ...


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``value``."""
    return -(-value // multiple) * multiple


def num_sparsecores_per_device(device: DeviceLike | None = None) -> int:
    """SparseCores of a device (of the first device if none is given).

    A device of a platform that has no SparseCores works as one with as many as
    `NUM_SC_PER_DEVICE_MAP` or the environment variable `EMULATED_SPARSECORES` say, else with one.

    Raises:
        SpecError: If it is a TPU, or something else than a JAX device, of a kind that is not
            known.
    """
    chosen: Any = jax.devices()[0] if device is None else device
    kind = getattr(chosen, "device_kind", None)
    if kind is None:
        raise SpecError(f"Cannot determine device kind for device: {chosen!r}; pass a JAX device")
    if kind in NUM_SC_PER_DEVICE_MAP:
        return NUM_SC_PER_DEVICE_MAP[kind]
    platform = getattr(chosen, "platform", None)
    if not isinstance(platform, str) or platform == "tpu":
        raise SpecError(
            f"Unknown sparsecore count for device kind: {kind}. Known: "
            f"{', '.join(NUM_SC_PER_DEVICE_MAP)}; pass num_sc_per_device=..., or add the kind to "
            "kernels.utils.NUM_SC_PER_DEVICE_MAP"
        )
    given = os.environ.get(EMULATED_SPARSECORES, "1")
    if not given.isdecimal() or int(given) < 1:
        raise SpecError(
            f"environment variable {EMULATED_SPARSECORES} is '{given}'; give a whole number of at "
            "least 1, or unset it"
        )
    return int(given)


def check_num_sparsecores(num_sc_per_device: int | None) -> int:
    """The number given, or that of the first device of this process if it is None.

    Raises:
        SpecError: If the number is below 1.
    """
    if num_sc_per_device is None:
        return num_sparsecores_per_device()
    if num_sc_per_device < 1:
        raise SpecError(
            f"Invalid num_sc_per_device: {num_sc_per_device}; give at least 1, or None for that "
            "of the device"
        )
    return num_sc_per_device


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of a nesting of specs or host arrays, mappings in order of their keys."""
    return jax.tree.leaves(tree)


def name_list(names: Iterable[str]) -> str:
    """Names, sorted and quoted, for messages."""
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
