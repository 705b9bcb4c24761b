"""Which backend CPUs get: C++ where it was built, else plain JAX.

The environment variable ``EMBERAY_CPU_BACKEND`` chooses one: ``cpu``, ``xla`` or ``auto``.
"""

from __future__ import annotations

import functools
import os
import warnings

from kernels.backends.cpu import CpuBackend
from kernels.backends.cpu_calls import native_module
from kernels.backends.interface import Backend
from kernels.backends.xla import XlaBackend
from kernels.errors import SpecError

__all__ = ["CPU_BACKEND", "cpu_kernels_are_built", "select_cpu_backend"]

CPU_BACKEND: str = "EMBERAY_CPU_BACKEND"
"""Environment variable that chooses the backend for CPUs."""

_HOW_TO_BUILD = (
    "install a C++ compiler (for example apt-get install g++) and install emberay again "
    "(uv sync --reinstall-package emberay)"
)


def select_cpu_backend() -> Backend:
    """The backend for CPUs. Falling back to plain JAX is said once, by a warning.

    Raises:
        SpecError: If ``EMBERAY_CPU_BACKEND`` has another value, or asks for the C++ kernels where
            they were not built.
    """
    return _select(os.environ.get(CPU_BACKEND, "auto"))


def cpu_kernels_are_built() -> bool:
    """Whether the C++ module can be imported."""
    try:
        native_module()
    except ImportError:
        return False
    return True


@functools.cache
def _select(choice: str) -> Backend:
    if choice not in ("auto", "cpu", "xla"):
        raise SpecError(f"{CPU_BACKEND} is '{choice}'; set it to 'cpu', 'xla' or 'auto'")
    if choice == "xla":
        return XlaBackend()
    if cpu_kernels_are_built():
        return CpuBackend()
    if choice == "cpu":
        raise SpecError(
            f"{CPU_BACKEND} is 'cpu', but the C++ kernels were not built: {_HOW_TO_BUILD}, or set "
            "it to 'auto'"
        )
    warnings.warn(
        "the C++ kernels for CPUs were not built: lookup and update run in plain JAX, several "
        f"times slower, with the same result; {_HOW_TO_BUILD}, or set {CPU_BACKEND}=xla to run "
        "without this warning",
        RuntimeWarning,
        stacklevel=3,
    )
    return XlaBackend()
