"""Backends of lookup and update, one per kind of device, behind one small interface."""

from __future__ import annotations

import os

import jax

from kernels.backends.cpu_choice import CPU_BACKEND, cpu_kernels_are_built, select_cpu_backend
from kernels.backends.interface import NO_ROW, Backend, StackInput, StackLayout
from kernels.backends.tpu import TpuBackend
from kernels.backends.xla import XlaBackend
from kernels.errors import SpecError

__all__ = [
    "CPU_BACKEND",
    "EXCHANGE",
    "NO_ROW",
    "Backend",
    "StackInput",
    "StackLayout",
    "TpuBackend",
    "XlaBackend",
    "cpu_kernels_are_built",
    "select_backend",
]

EXCHANGE: str = "EMBERAY_EXCHANGE"
"""Environment variable: how GPUs exchange rows, ``padded`` (whole blocks, the default) or
``ragged`` (used places only, through ``ragged_all_to_all``)."""

_XLA = XlaBackend()
_BY_PLATFORM: dict[str, Backend] = {
    "gpu": _XLA,
    "cuda": _XLA,
    "rocm": _XLA,
    "tpu": TpuBackend(),
}
_RAGGED = XlaBackend(ragged=True)
_GPUS = ("gpu", "cuda", "rocm")


def select_backend(platform: str | None = None) -> Backend:
    """The backend for a platform; None takes that of JAX's default devices.

    Raises:
        SpecError: If there is none, or the variable `EXCHANGE` or `CPU_BACKEND` has a value that
            does not go.
    """
    chosen = jax.default_backend() if platform is None else platform
    if chosen == "cpu":
        return select_cpu_backend()
    if chosen not in _BY_PLATFORM:
        raise SpecError(
            f"platform '{chosen}' has no embedding backend; use one of "
            f"cpu, {', '.join(_BY_PLATFORM)}"
        )
    exchange = os.environ.get(EXCHANGE, "padded")
    if exchange not in ("padded", "ragged"):
        raise SpecError(f"{EXCHANGE} is '{exchange}'; set it to 'padded' or 'ragged'")
    return _RAGGED if chosen in _GPUS and exchange == "ragged" else _BY_PLATFORM[chosen]
