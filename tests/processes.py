"""The environment of the hundreds of processes that tests start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["prepare_processes"]

BYTECODE = Path(__file__).parents[1] / ".pytest_cache" / "bytecode"


def prepare_processes() -> None:
    """Have them find modules compiled, and hosts get as much of the machine as other tests.

    Where Python is told to write no bytecode, as in many containers, half of a host's start is
    compiling JAX and others; it may write some here after all. Ray's workers give way to all other
    processes (nice 15): beside tests that compute they would hardly get on.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(BYTECODE)
        sys.dont_write_bytecode = False
    os.environ |= {"RAY_worker_niceness": "0"}
