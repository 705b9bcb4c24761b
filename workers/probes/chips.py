"""Which other processes hold the accelerators of this node."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess

from workers.chips import chip_holders
from workers.probes.facts import Holder

__all__ = ["holders_of", "read_nvidia"]

_NVIDIA_SECONDS = 10.0
_QUERY = ("--query-compute-apps=gpu_uuid,pid,process_name", "--format=csv,noheader")


def holders_of(platform: str) -> tuple[Holder, ...]:
    """Processes, other than this one, that hold chips of a platform; none on ``cpu``."""
    if platform == "tpu":
        return tuple(Holder(holder.pid, str(holder)) for holder in chip_holders())
    if platform != "gpu":
        return ()
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        done = subprocess.run(
            [tool, *_QUERY], capture_output=True, text=True, timeout=_NVIDIA_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return read_nvidia(done.stdout)


def read_nvidia(text: str) -> tuple[Holder, ...]:
    """Processes that compute on NVIDIA GPUs, from what ``nvidia-smi`` prints.

    Those of other containers are there too, with a pid that is not of this container's.

    Args:
        text: A line for each process on a GPU: the GPU's id, pid, command.
    """
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return tuple(
        Holder(int(row[1]), f"process {row[1]} ({row[2]}) computes on {row[0]}")
        for row in rows
        if len(row) == 3 and row[1].isdecimal() and int(row[1]) != os.getpid()
    )
