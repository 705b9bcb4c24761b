"""``hosts.jsonl``: where each host's time and memory went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator import events
from orchestrator.events import Event
from orchestrator.json_lines import open_for_append, to_json
from workers.protocol import Observed, merge_observed

__all__ = ["HostsFile"]

_SECONDS = 10.0
"""Least time between two lines."""
_SECONDS_PER_HOST = 0.1
"""A line grows with the hosts: so many seconds more for each keep the file small."""
_ENDS = (
    events.Launching,
    events.Recovering,
    events.Finished,
    events.Interrupted,
    events.Failed,
)


class HostsFile:
    """Adds up what hosts report of their leases, and writes a line every ten seconds or more.

    A line holds ``time``, ``launch``, the steps [``first``, ``last``) and, one number for each host
    by rank, ``seconds`` by kind, busy seconds of the pipeline's ``stages``, ``memory`` of the
    process and ``device_memory`` (bytes); and by table stack what was ``observed``, the largest
    values over all hosts (ids and different ids of a partition, entries of a device's buffer). An
    hour of a run takes some MB, with any number of hosts.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_for_append(path)
        self._sum: _Sum | None = None
        self._since = 0.0

    def __call__(self, time: float, event: Event) -> None:
        """See ``orchestrator.events.Sink``."""
        if isinstance(event, events.LeaseDone) and event.replies:
            if self._sum is None:
                self._sum, self._since = _Sum(event), time - event.elapsed
            self._sum.add(event)
            if time - self._since >= max(_SECONDS, _SECONDS_PER_HOST * len(event.replies)):
                self._write(time)
        elif isinstance(event, _ENDS):
            self._write(time)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, time: float) -> None:
        if self._sum is not None:
            self._file.write(to_json({"time": round(time, 3), **self._sum.record()}) + "\n")
            self._file.flush()
            self._sum = None


class _Sum:
    """Leases of one launch, added up host by host."""

    def __init__(self, first: events.LeaseDone) -> None:
        self._first, self._last = first, first
        self._hosts = len(first.replies)
        self._seconds: dict[str, list[float]] = {}
        self._stages: dict[str, list[float]] = {}
        self._observed: dict[str, Observed] = {}

    def add(self, lease: events.LeaseDone) -> None:
        self._last = lease
        for place, reply in enumerate(lease.replies):
            self._add(self._seconds, place, reply.seconds)
            self._add(self._stages, place, reply.stages)
        self._observed = merge_observed(
            self._observed, *(reply.observed for reply in lease.replies)
        )

    def record(self) -> dict[str, Any]:
        replies = self._last.replies
        return {
            "launch": self._last.launch,
            "first": self._first.first,
            "last": self._last.last,
            "seconds": _rounded(self._seconds),
            "stages": _rounded(self._stages),
            "memory": [reply.memory.process for reply in replies],
            "device_memory": [reply.memory.device for reply in replies],
            "observed": {
                stack: [
                    value.max_ids_per_partition,
                    value.max_unique_ids_per_partition,
                    value.required_buffer_size_per_device,
                ]
                for stack, value in self._observed.items()
            },
        }

    def _add(self, sums: dict[str, list[float]], place: int, seconds: Mapping[str, float]) -> None:
        for kind, value in seconds.items():
            sums.setdefault(kind, [0.0] * self._hosts)[place] += value


def _rounded(sums: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {kind: [round(value, 3) for value in values] for kind, values in sums.items()}
