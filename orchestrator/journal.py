"""Who is told what happens in a run, and how it is written down."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from workers.redaction import Redactor

__all__ = ["UNLOGGED", "Event", "Journal", "Sink", "as_record"]

_MAY_HOLD_TEXT = (str, Mapping, list, tuple)

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
        hide: Takes the secrets out of every event before anybody is told.
    """

    def __init__(
        self,
        sinks: Sequence[Sink] = (),
        wall_clock: Callable[[], float] = time.time,
        hide: Redactor | None = None,
    ) -> None:
        self._sinks = tuple(sinks)
        self._wall_clock = wall_clock
        self._hide = hide

    def record(self, event: Event) -> None:
        """Tell every sink."""
        now = self._wall_clock()
        if self._hide is not None:
            event = _without_secrets(event, self._hide)
        for sink in self._sinks:
            sink(now, event)


def _without_secrets(event: Event, hide: Redactor) -> Event:
    held = {item.name: getattr(event, item.name) for item in dataclasses.fields(event)}
    said = {name: value for name, value in held.items() if isinstance(value, _MAY_HOLD_TEXT)}
    return dataclasses.replace(event, **hide.values(said))


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
