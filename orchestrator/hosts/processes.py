"""Ending processes by their ids, on this node and on others of a Ray cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["KILL_SECONDS", "START_SECONDS", "end_on", "kill_processes", "wait_until_gone"]

KILL_SECONDS = 10.0
"""Longest wait for killed processes to be gone."""
START_SECONDS = 10.0
"""Longest wait for the start of a task on another node, that kills processes there."""


def kill_processes(pids: Sequence[int]) -> None:
    """Send SIGKILL to processes of this node; ones that are gone are passed over."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _end_processes(pids: Sequence[int]) -> None:
    """Kill processes of this node, and wait until they are gone, but no longer than 10 s."""
    kill_processes(pids)
    wait_until_gone(pids)


def end_on(node: str, pids: Sequence[int]) -> Any:
    """``_end_processes`` on another node; the result is ready when it is done."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(_end_processes).options(
        num_cpus=0, max_retries=0, scheduling_strategy=strategy
    )
    return task.remote(list(pids))


def wait_until_gone(pids: Sequence[int]) -> None:
    """Wait until processes of this node are gone, but no longer than 10 s."""
    deadline = time.monotonic() + KILL_SECONDS
    left = list(pids)
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if _exists(pid)]
        if left:
            time.sleep(0.02)


def _exists(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
