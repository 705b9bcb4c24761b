"""Backends of lookup and update, one per kind of device, behind one small interface."""

from __future__ import annotations

import jax

from kernels.backends.interface import Backend, StackInput, StackLayout
from kernels.backends.xla import XlaBackend
from kernels.errors import SpecError

__all__ = ["Backend", "StackInput", "StackLayout", "XlaBackend", "select_backend"]

_XLA = XlaBackend()
_BY_PLATFORM: dict[str, Backend] = {
    "cpu": _XLA,
    "gpu": _XLA,
    "cuda": _XLA,
    "rocm": _XLA,
    "tpu": _XLA,
}


def select_backend(platform: str | None = None) -> Backend:
    """The backend for a platform; None takes that of JAX's default devices.

    Raises:
        SpecError: If there is none.
    """
    chosen = jax.default_backend() if platform is None else platform
    if chosen not in _BY_PLATFORM:
        raise SpecError(
            f"platform '{chosen}' has no embedding backend; use one of {', '.join(_BY_PLATFORM)}"
        )
    return _BY_PLATFORM[chosen]
