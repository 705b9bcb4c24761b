"""Tests spread over processes (pytest-xdist), so that one computes while another waits.

The tests of a file stay together, in order, as they share what is compiled and prepared. Those of
all files that start a Ray cluster, or use what real runs share (a cluster, and a run that others
are compared with), are one piece, and begin first: one at a time uses Ray, and they take longest.
Those whose clusters have many nodes with little to do mostly wait, and come last, beside what is
left of the others.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

__all__ = ["Pieces", "file_of", "processes_for", "turn_of"]

ROOT = Path(__file__).parents[1]
SHARED = re.compile(r"\b(ray_head|undisturbed|RaySession|cluster_utils|RaySliceHosts)\b")
"""Names of what real runs share, and of what starts a Ray cluster: two at once are too many for two
cores, where Ray's parts then miss the deadlines of their start."""
WAITING = re.compile(r"\bdef light_nodes\b")
"""What those have whose clusters have many nodes."""
MOST_PROCESSES = 4


@functools.cache
def turn_of(file: str) -> int:
    """When a file's tests come (a path from the root of the repository).

    Returns:
        0 for those that share what real runs use, 2 for those that mostly wait, 1 for all others.
    """
    text = (ROOT / file).read_text()
    if WAITING.search(text):
        return 2
    return 0 if SHARED.search(text) else 1


def file_of(nodeid: str) -> str:
    """The file that a test is in."""
    return nodeid.partition("::")[0]


def processes_for(config: pytest.Config) -> int:
    """One a core, but at least two; none (0) for a part of the suite.

    A few tests are done in pytest's own process before others are ready for them.
    """
    if config.args_source is pytest.Config.ArgsSource.ARGS or config.option.keyword:
        return 0
    return min(MOST_PROCESSES, max(2, len(os.sched_getaffinity(0))))


class Pieces(LoadFileScheduling):
    """Gives a process that has little left to do the next piece."""

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        return "real runs" if turn_of(file) == 0 else file
