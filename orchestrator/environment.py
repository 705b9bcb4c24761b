"""What a run ran on: written down at its start, to be read long after."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["PACKAGES", "environment"]

PACKAGES: tuple[str, ...] = (
    "emberay",
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "ray",
    "numpy",
    "pyarrow",
)
"""Distributions whose versions are told, where they are installed."""


def environment() -> dict[str, str]:
    """The driver's machine, command and versions, in words, in the order they are to be shown.

    Example:
        >>> environment()["python"]                          # doctest: +SKIP
        '3.12.1'
    """
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    told = {
        "command": shlex.join(sys.orig_argv),
        "folder": str(Path.cwd()),
        "driver's machine": socket.gethostname(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:,.1f} GiB",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            continue
    return told


def _processor() -> str:
    """The processor's name as Linux tells it, else its architecture."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
