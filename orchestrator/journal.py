"""Who is told what happens in a run, and how it is written down."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["UNLOGGED", "Event", "Journal", "Sink", "as_record"]

UNLOGGED = {"unlogged": True}
"""Metadata of a field that is too large for ``events.jsonl``."""


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    kind: ClassVar[str]


type Sink = Callable[[float, Event], None]
"""Takes the wall time (Unix seconds) and the event."""


class Journal:
    """Hands every event to all sinks, in order.

    Args:
        sinks: Who is told.
        wall_clock: Unix seconds.
    """

    def __init__(
        self, sinks: Sequence[Sink] = (), wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._sinks = tuple(sinks)
        self._wall_clock = wall_clock

    def record(self, event: Event) -> None:
        """Tell every sink."""
        now = self._wall_clock()
        for sink in self._sinks:
            sink(now, event)


def as_record(time_: float, event: Event) -> dict[str, Any]:
    """The event as it is written to ``events.jsonl``."""
    record: dict[str, Any] = {"time": round(time_, 3), "kind": event.kind}
    for item in dataclasses.fields(event):
        if item.metadata.get("unlogged"):
            continue
        record[item.name] = _plain(getattr(event, item.name))
    return record


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
