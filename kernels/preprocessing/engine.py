"""Which engine turns ids into buffers: C++ where it was built, else numpy.

An engine is a module with one function, ``encode``. Both give the same bytes and the same errors.
The environment variable ``EMBERAY_PREPROCESSING`` chooses one: ``native``, ``numpy`` or ``auto``.
"""

from __future__ import annotations

import functools
import os
import warnings
from importlib import import_module
from types import ModuleType

from kernels.errors import SpecError

__all__ = ["ENGINE_VARIABLE", "native_is_built", "select_engine"]

ENGINE_VARIABLE = "EMBERAY_PREPROCESSING"
"""Environment variable that chooses the engine."""

_NATIVE = "kernels.preprocessing.native_engine"
_NUMPY = "kernels.preprocessing.numpy_engine"
_HOW_TO_BUILD = (
    "install a C++ compiler (for example apt-get install g++) and install emberay again "
    "(uv sync --reinstall-package emberay)"
)


def select_engine() -> ModuleType:
    """The engine to use: a module with the function ``encode``.

    Falling back to numpy is said once, by a warning.

    Raises:
        SpecError: If ``EMBERAY_PREPROCESSING`` has another value, or asks for the C++ engine where
            it was not built.
    """
    return _select(os.environ.get(ENGINE_VARIABLE, "auto"))


@functools.cache
def native_is_built() -> bool:
    """Whether the C++ module can be imported."""
    try:
        import_module("kernels._preprocess")
    except ImportError:
        return False
    return True


@functools.cache
def _select(choice: str) -> ModuleType:
    if choice not in ("auto", "native", "numpy"):
        raise SpecError(f"{ENGINE_VARIABLE} is '{choice}'; set it to 'native', 'numpy' or 'auto'")
    if choice == "numpy":
        return import_module(_NUMPY)
    if native_is_built():
        return import_module(_NATIVE)
    if choice == "native":
        raise SpecError(
            f"{ENGINE_VARIABLE} is 'native', but the C++ preprocessing was not built: "
            f"{_HOW_TO_BUILD}, or set it to 'auto'"
        )
    warnings.warn(
        "the C++ preprocessing was not built: preparing a batch runs in numpy, on one core and "
        f"many times slower, with the same result; {_HOW_TO_BUILD}, or set "
        f"{ENGINE_VARIABLE}=numpy to run without this warning",
        RuntimeWarning,
        stacklevel=3,
    )
    return import_module(_NUMPY)
