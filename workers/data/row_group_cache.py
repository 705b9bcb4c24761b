"""Row groups decoded ahead of whoever needs them, in bounded memory.

Whoever reads says what will be needed next, in that order; a few threads load it, and what was used
longest ago makes room. The threads live only while there is something to load, so nothing has to be
closed.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable

__all__ = ["RowGroupCache"]


class RowGroupCache[RowGroup]:
    """Loads row groups by number, ahead where it is told to.

    Memory: what is held and what is being loaded come to at most ``capacity_bytes``, and one row
    group more where that is waited for. Not counted is what ``load`` itself needs on the way, and
    a row group that had to make room while its user still works on it.

    Args:
        load: Makes a row group; called in threads of the cache, several at a time.
        size_of: Bytes a row group will take, known before it is loaded.
        capacity_bytes: See above.
        threads: Most row groups loaded at the same time.
    """

    def __init__(
        self,
        load: Callable[[int], RowGroup],
        size_of: Callable[[int], int],
        capacity_bytes: int,
        threads: int,
    ) -> None:
        self._load, self._size_of = load, size_of
        self._capacity, self._most_threads = capacity_bytes, threads
        self._changed = threading.Condition()
        self._held: OrderedDict[int, RowGroup] = OrderedDict()
        self._loading: set[int] = set()
        self._failed: dict[int, BaseException] = {}
        self._announced: tuple[int, ...] = ()
        self._awaited: Counter[int] = Counter()
        self._ahead: deque[int] = deque()
        self._needed: deque[int] = deque()
        self._threads = 0

    @property
    def nbytes(self) -> int:
        """Bytes of what is held and of what is being loaded."""
        with self._changed:
            return self._used()

    def grow(self, capacity_bytes: int) -> None:
        """Allow more memory than before; less changes nothing."""
        with self._changed:
            self._capacity = max(self._capacity, capacity_bytes)
            self._start_threads()

    def announce(self, numbers: Iterable[int]) -> None:
        """Say which row groups are needed next, in order of need; replaces what was said before."""
        with self._changed:
            self._announced = tuple(dict.fromkeys(numbers))
            self._ahead = deque(
                n for n in self._announced if n not in self._held and n not in self._loading
            )
            self._start_threads()

    def forget(self) -> None:
        """Load nothing more ahead; what is being loaded is finished and held."""
        self.announce(())

    def get(self, number: int) -> RowGroup:
        """A row group; waits until it is loaded.

        Raises:
            Exception: What ``load`` raised. The next ``get`` tries again.
        """
        with self._changed:
            self._awaited[number] += 1
            try:
                if number not in self._loading:
                    self._failed.pop(number, None)
                while number not in self._held:
                    if number in self._failed:
                        raise self._failed.pop(number)
                    # Also if another user has taken the failure that this one waited for.
                    if number not in self._loading and number not in self._needed:
                        self._needed.append(number)
                        self._start_threads()
                    self._changed.wait()
                self._held.move_to_end(number)
                return self._held[number]
            finally:
                self._awaited[number] -= 1

    # All below are called with the lock held, but for the threads' own loop.

    def _start_threads(self) -> None:
        wanted = len(self._needed) + len(self._ahead)
        while self._threads < min(self._most_threads, wanted):
            self._threads += 1
            threading.Thread(target=self._work, name="row groups", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                number = self._next()
                if number is None:
                    self._threads -= 1
                    return
                self._loading.add(number)
            loaded, error = None, None
            try:
                loaded = self._load(number)
            except BaseException as raised:
                error = raised
            with self._changed:
                self._loading.discard(number)
                if loaded is not None:
                    self._held[number] = loaded
                elif error is not None:
                    self._failed[number] = error
                self._changed.notify_all()

    def _next(self) -> int | None:
        """What to load now, with room made for it; None if there is nothing, or no room."""
        while self._needed:
            number = self._needed.popleft()
            if number not in self._held and number not in self._loading:
                self._make_room(self._size_of(number), whatever_it_takes=True)
                return number
        while self._ahead:
            number = self._ahead[0]
            known = number in self._held or number in self._loading or number in self._failed
            if not known and not self._make_room(self._size_of(number), whatever_it_takes=False):
                return None
            self._ahead.popleft()
            if not known:
                return number
        return None

    def _make_room(self, size: int, *, whatever_it_takes: bool) -> bool:
        """Drop row groups until ``size`` bytes fit; whether they do.

        First go those not announced, the longest unused before the others; then, if it must be,
        those announced, the last to be needed before the others.
        """
        announced = set(self._announced)
        leaving = [number for number in self._held if number not in announced]
        if whatever_it_takes:
            leaving += [number for number in reversed(self._announced) if number in self._held]
        # What is awaited must not go before it was fetched, or it would be loaded for ever.
        leaving = [number for number in leaving if not self._awaited[number]]
        surplus = self._used() + size - self._capacity
        if surplus > sum(map(self._size_of, leaving)) and not whatever_it_takes:
            return False
        for number in leaving:
            if surplus <= 0:
                break
            del self._held[number]
            surplus -= self._size_of(number)
        return surplus <= 0

    def _used(self) -> int:
        return sum(map(self._size_of, [*self._held, *self._loading]))
