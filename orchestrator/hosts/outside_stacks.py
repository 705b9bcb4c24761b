"""The stacks of a process that cannot answer, read from outside of it by py-spy.

A process that was stopped (SIGSTOP), or holds Python's lock for ever, says nothing of itself.
py-spy, which comes with Ray, reads its memory without stopping it. The system must let it: it takes
the same user, and on some systems the right to trace processes that are not its children
(``CAP_SYS_PTRACE``, or ``kernel.yama.ptrace_scope=0``).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["outside_stacks", "outside_stacks_on"]

DUMP_SECONDS = 10.0
"""Longest time that py-spy may take."""


def outside_stacks(pid: int) -> str:
    """The Python stacks of a process of this node, or why they cannot be had."""
    beside_python = Path(sys.executable).parent / "py-spy"
    program = str(beside_python) if beside_python.exists() else shutil.which("py-spy")
    if program is None:
        return f"process {pid} does not answer, and py-spy, which could look into it, is missing"
    command = [program, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DUMP_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"process {pid} does not answer, and py-spy could not look into it: {error}"
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split())
    return (
        f"process {pid} does not answer, and py-spy could not look into it: {said} (it may need "
        "the right to trace other processes: CAP_SYS_PTRACE, or kernel.yama.ptrace_scope=0)"
    )


def outside_stacks_on(node: str, pid: int) -> Any:
    """``outside_stacks`` on another node of the cluster; the result is ready when it is done."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(outside_stacks).options(
        num_cpus=0, max_retries=0, scheduling_strategy=strategy
    )
    return task.remote(pid)
