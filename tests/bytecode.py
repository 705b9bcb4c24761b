"""Modules compiled once, and not again in each of the hundreds of processes that tests start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["keep_bytecode"]

FOLDER = Path(__file__).parents[1] / ".pytest_cache" / "bytecode"


def keep_bytecode() -> None:
    """Where Python is told to write no bytecode, let it write some here after all.

    Containers are often set up so, and there half of a host's start is compiling JAX and others.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(FOLDER)
        sys.dont_write_bytecode = False
