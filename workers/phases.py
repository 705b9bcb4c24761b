"""What a host is doing right now, and for how long: read by its pulse, written by its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Phases"]


class Phases:
    """The current phase, and the wall seconds spent in each; safe to read from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name = "starting"
        self._since = time.monotonic()
        self._seconds: dict[str, float] = {}

    def enter(self, name: str) -> str:
        """Begin a phase; returns the one before."""
        with self._lock:
            before, now = self._name, time.monotonic()
            self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
            self._name, self._since = name, now
            return before

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """A phase for the length of a block; the one before goes on after it."""
        before = self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def current(self) -> tuple[str, float]:
        """Name of the current phase and seconds since it began."""
        with self._lock:
            return self._name, time.monotonic() - self._since

    def take_seconds(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        self.enter(self._name)
        with self._lock:
            taken, self._seconds = self._seconds, {}
            return taken
