"""Running rivals in processes of their own, so that only one holds its tables at a time.

All of them get memory from the system once and keep it (glibc's ``MALLOC_*`` settings): otherwise
page faults for new activations, which any of them may or may not have, drown what is measured. A
high threshold for ``mmap`` does not do: glibc takes none above 32 MiB, and a program of XLA asks
for all its temporary memory at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["MEMORY", "TORCH_PYTHON", "run_ours", "run_torch", "torch_python"]

TORCH_PYTHON = "EMBERAY_TORCH_PYTHON"
"""Environment variable: a Python that has torch and fbgemm-gpu-cpu."""

MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TOP_PAD_": "67108864",
    "OMP_WAIT_POLICY": "passive",
}
_FOLDER = Path(__file__).parent
_MOST_SECONDS = 600


def torch_python() -> str | None:
    """The Python to run torch with, if there is one."""
    return os.environ.get(TORCH_PYTHON)


def run_torch(
    kind: str, arrays: Path, settings: Path, script: str = "torch_rivals.py"
) -> dict[str, Any]:
    """What one rival in torch prints as JSON: seconds by measurement."""
    python = torch_python()
    assert python is not None
    return _run([python, str(_FOLDER / script), kind, str(arrays), str(settings)])


def run_ours(module: str, *arguments: str) -> dict[str, Any]:
    """What a module of ours prints as JSON."""
    return _run([sys.executable, "-m", module, *arguments])


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        command,
        env=os.environ | MEMORY,
        cwd=_FOLDER.parent,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_MOST_SECONDS,
    )
    return json.loads(done.stdout.splitlines()[-1])
