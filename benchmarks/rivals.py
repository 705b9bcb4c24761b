"""Running rivals in processes of their own.

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
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.timing import Timing
from benchmarks.turns import READY

__all__ = ["MEMORY", "TORCH_PYTHON", "Rival", "run_ours", "run_torch", "torch_python"]

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


class Rival:
    """A process that runs `benchmarks.turns.serve`, so that rivals can be measured in turns.

    Args:
        command: A module of ours, or a script for `torch_python`, and arguments.
    """

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            _command(*command),
            env=os.environ | MEMORY,
            cwd=_FOLDER.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._deadline = threading.Timer(_MOST_SECONDS, self._process.kill)
        self._deadline.start()
        self._answer(READY)

    def measure(self, name: str) -> Timing:
        """Let the process run one of its measurements now."""
        assert self._process.stdin is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        return Timing(**json.loads(self._answer("{")))

    def _answer(self, start: str) -> str:
        """The next line that starts so; libraries may print others."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(start):
                return line
        raise RuntimeError(f"{self._process.args} ended, or took {_MOST_SECONDS} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._deadline.cancel()


def run_torch(kind: str, arrays: Path, settings: Path, script: str) -> dict[str, Any]:
    """What one rival in torch prints as JSON: seconds by measurement."""
    return _run(script, kind, str(arrays), str(settings))


def run_ours(module: str, *arguments: str) -> dict[str, Any]:
    """What a module of ours prints as JSON."""
    return _run(module, *arguments)


def _command(name: str, *arguments: str) -> list[str]:
    if not name.endswith(".py"):
        return [sys.executable, "-m", name, *arguments]
    python = torch_python()
    assert python is not None
    return [python, str(_FOLDER / name), *arguments]


def _run(*command: str) -> dict[str, Any]:
    done = subprocess.run(
        _command(*command),
        env=os.environ | MEMORY,
        cwd=_FOLDER.parent,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_MOST_SECONDS,
    )
    return json.loads(done.stdout.splitlines()[-1])
