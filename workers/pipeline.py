"""A source and stages behind it, in threads that run ahead of whoever consumes the result.

    source ─queue─► stage ─queue─► stage ─queue─► next()

Each stage is a thread with a bounded queue behind it, so memory is bounded, and its busy seconds
are counted, so a slow stage can be named.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["Pipeline"]


class _Failure:
    """An exception on its way to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()
"""Marks the end of the items in a queue."""


class Pipeline:
    """Runs a source and stages behind it in threads; iterate over it, then close it.

    Args:
        source: Makes the items; its time counts as ``read``.
        stages: (name, function from item to item), in order.
        depth: Items each queue holds at most.

    An exception in any stage is raised by ``next``. ``close`` stops all threads and is always safe.
    """

    def __init__(
        self,
        source: Iterator[Any],
        stages: Sequence[tuple[str, Callable[[Any], Any]]],
        depth: int = 2,
    ) -> None:
        self._stopping = threading.Event()
        self._seconds = dict.fromkeys(["read", *(name for name, _ in stages)], 0.0)
        self._queues: list[queue.Queue[Any]] = [queue.Queue(depth) for _ in range(len(stages) + 1)]
        self._threads = [threading.Thread(target=self._read, args=(source,), daemon=True)]
        for index, (name, function) in enumerate(stages):
            arguments = (name, function, self._queues[index], self._queues[index + 1])
            self._threads.append(threading.Thread(target=self._work, args=arguments, daemon=True))
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Pipeline:
        return self

    def __next__(self) -> Any:
        while not self._stopping.is_set():
            try:
                item = self._queues[-1].get(timeout=0.2)
            except queue.Empty:
                continue
            if item is _END:
                self._stopping.set()
                break
            if isinstance(item, _Failure):
                self._stopping.set()
                raise item.error
            return item
        raise StopIteration

    def take_seconds(self) -> dict[str, float]:
        """Busy seconds of every stage since the last call."""
        taken = dict(self._seconds)
        for name, seconds in taken.items():
            self._seconds[name] -= seconds
        return taken

    def close(self) -> None:
        """Stop all threads and wait for them."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _read(self, source: Iterator[Any]) -> None:
        while not self._stopping.is_set():
            started = time.perf_counter()
            try:
                item = next(source, _END)
            except BaseException as error:
                item = _Failure(error)
            self._seconds["read"] += time.perf_counter() - started
            if not self._put(self._queues[0], item) or item is _END or isinstance(item, _Failure):
                return

    def _work(
        self,
        name: str,
        function: Callable[[Any], Any],
        source: queue.Queue[Any],
        target: queue.Queue[Any],
    ) -> None:
        while not self._stopping.is_set():
            try:
                item = source.get(timeout=0.2)
            except queue.Empty:
                continue
            last = item is _END or isinstance(item, _Failure)
            if not last:
                started = time.perf_counter()
                try:
                    item = function(item)
                except BaseException as error:
                    item, last = _Failure(error), True
                self._seconds[name] += time.perf_counter() - started
            if not self._put(target, item) or last:
                return

    def _put(self, target: queue.Queue[Any], item: Any) -> bool:
        while not self._stopping.is_set():
            try:
                target.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
