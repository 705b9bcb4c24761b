"""A source and stages behind it, in threads that run ahead of whoever consumes the result.

    source ─queue─► stage ─queue─► stage ─queue─► next()

Each stage is a thread with a bounded queue behind it, so memory is bounded, and its busy seconds
are counted, so a slow stage can be named.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

__all__ = ["Pipeline", "TimedSource"]

_PATIENCE = 0.2
"""Seconds after which a waiting thread looks whether it is to stop."""


class TimedSource(Protocol):
    """An iterator that counts its own stages, as it has threads of its own or mostly waits."""

    def __next__(self) -> Any:
        """The next item; raises StopIteration after the last."""
        ...

    def take_seconds(self) -> Mapping[str, float]:
        """Busy seconds of every stage since the last call."""
        ...

    def close(self) -> None:
        """Called once, after the last ``__next__``, in the same thread."""
        ...


class _Failure:
    """An exception on its way to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()
"""Marks the end of the items in a queue."""


class Pipeline:
    """Runs a source and stages behind it in threads; iterate over it, then close it.

    Args:
        source: Makes the items. Its time counts as ``read``, unless it counts by itself
            (``TimedSource``). If it has a ``close``, as generators have, that is called at the end.
        stages: (name, function from item to item), in order.
        depth: Items each queue holds at most: with ``n`` stages, at most
            ``(n + 1) * (depth + 1)`` items exist at a time, beside the one last consumed.

    An exception in any stage is raised by ``next``, after all items before it, with a note that
    names the stage, and again by every further ``next``. How long ``next`` may take is for the
    consumer to watch: it ends when the stages do, or with ``close`` from another thread.
    """

    def __init__(
        self,
        source: Iterator[Any] | TimedSource,
        stages: Sequence[tuple[str, Callable[[Any], Any]]],
        depth: int = 2,
    ) -> None:
        self._stopping = threading.Event()
        self._failure: _Failure | None = None
        self._lock = threading.Lock()
        self._count_source: Callable[[], Mapping[str, float]] | None
        self._count_source = getattr(source, "take_seconds", None)
        counted = [] if self._count_source else ["read"]
        self._seconds = dict.fromkeys([*counted, *(name for name, _ in stages)], 0.0)
        self._queues: list[queue.Queue[Any]] = [queue.Queue(depth) for _ in range(len(stages) + 1)]
        self._threads = [self._thread("read", self._read, source)]
        for index, (name, function) in enumerate(stages):
            arguments = (name, function, self._queues[index], self._queues[index + 1])
            self._threads.append(self._thread(name, self._work, *arguments))
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _thread(stage: str, run: Callable[..., None], *arguments: Any) -> threading.Thread:
        return threading.Thread(target=run, args=arguments, name=stage, daemon=True)

    def __iter__(self) -> Pipeline:
        return self

    def __next__(self) -> Any:
        if self._failure is not None:
            raise self._failure.error
        while not self._stopping.is_set():
            try:
                item = self._queues[-1].get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if item is _END:
                self._stopping.set()
                break
            if isinstance(item, _Failure):
                self._failure = item
                self._stopping.set()
                raise item.error
            return item
        raise StopIteration

    def take_seconds(self) -> dict[str, float]:
        """Busy seconds of every stage since the last call."""
        beside = self._count_source() if self._count_source else {}
        with self._lock:
            taken, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return {**beside, **taken}

    def close(self, deadline: float = 10.0) -> tuple[str, ...]:
        """Stop all threads and wait for them. May be called several times.

        Args:
            deadline: Most seconds to wait: a function that hangs cannot be stopped.

        Returns:
            Names of the stages still at work; their threads end with what they are doing, or with
            the process.
        """
        self._stopping.set()
        end = time.monotonic() + deadline
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return tuple(thread.name for thread in self._threads if thread.is_alive())

    def _read(self, source: Any) -> None:
        count = self._count_source is None
        try:
            while not self._stopping.is_set():
                item = self._timed("read", lambda: next(source, _END), count=count)
                if not self._put(self._queues[0], item) or _is_last(item):
                    return
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def _work(
        self,
        name: str,
        function: Callable[[Any], Any],
        source: queue.Queue[Any],
        target: queue.Queue[Any],
    ) -> None:
        while not self._stopping.is_set():
            try:
                item = source.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if not _is_last(item):
                item = self._timed(name, lambda given=item: function(given), count=True)
            if not self._put(target, item) or _is_last(item):
                return

    def _timed(self, stage: str, run: Callable[[], Any], *, count: bool) -> Any:
        """What ``run`` returns or raises, with its time counted."""
        started = time.perf_counter()
        try:
            result = run()
        except BaseException as error:
            error.add_note(f"in stage '{stage}' of the data pipeline")
            result = _Failure(error)
        if count:
            with self._lock:
                self._seconds[stage] += time.perf_counter() - started
        return result

    def _put(self, target: queue.Queue[Any], item: Any) -> bool:
        while not self._stopping.is_set():
            try:
                target.put(item, timeout=_PATIENCE)
            except queue.Full:
                continue
            return True
        return False


def _is_last(item: Any) -> bool:
    return item is _END or isinstance(item, _Failure)
