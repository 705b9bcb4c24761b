"""Two hosts, in threads, hand out the same minibatches, whatever each needs and passes over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import agreed_batches
from workers.agreed_batches import AgreedBatches
from workers.minibatches import AHEAD, CUTS, bits_of, cuts_of
from workers.protocol import Squeezed

HOSTS = 2
FEW = st.sampled_from([0, 0, 0, 1, 6, 2**40, 2 ** (CUTS - 1)])


@dataclass(frozen=True)
class Batch:
    step: int
    cuts: int
    riding: Any = None

    @property
    def squeezed(self) -> Squeezed:
        minibatches = self.cuts.bit_count() + 1
        return Squeezed(int(minibatches > 1), minibatches)

    def carrying(self, riding: Any) -> Batch:
        return replace(self, riding=riding)


@dataclass
class Pipe:
    """Stands in for a pipeline."""

    batches: Iterator[Batch]
    error: Exception | None = None
    closed: bool = False

    def __next__(self) -> Batch:
        for batch in self.batches:
            return batch
        raise self.error or StopIteration

    def take_seconds(self) -> dict[str, float]:
        return {"encode": 1.0}

    def close(self) -> None:
        self.closed = True


@dataclass
class Link:
    """Adds up what the hosts' threads give, call by call, and checks that all call alike."""

    hosts: int = HOSTS
    sums: list[np.ndarray] = field(default_factory=list)
    calls: int = 0

    def __post_init__(self) -> None:
        self._barrier = threading.Barrier(self.hosts, timeout=20)
        self._lock = threading.Lock()
        self._given: list[tuple[str, np.ndarray]] = []
        self._sum: Any = None

    def add(self, what: str, value: np.ndarray) -> np.ndarray:
        with self._lock:
            self._given.append((what, value))
        if self._barrier.wait() == 0:
            assert len({name for name, _ in self._given}) == 1
            self._sum = sum(given for _, given in self._given)
            self._given = []
            self.calls += what == "agree"
        self._barrier.wait()
        return self._sum


def stream(
    own: list[int], rides: bool, error: Exception | None = None
) -> tuple[AgreedBatches, list[tuple[int, int]]]:
    made: list[tuple[int, int]] = []

    def again(batch: Any, cuts: int) -> Any:
        made.append((batch.step, cuts))
        return replace(batch, cuts=cuts)

    pipe: Any = Pipe(iter([Batch(step, cuts) for step, cuts in enumerate(own)]), error)
    mesh: Any = None
    return AgreedBatches(pipe, mesh, again, rides=rides), made


@pytest.fixture
def one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreed_batches, "agree", lambda cuts, mesh: list(cuts))
    monkeypatch.setattr(agreed_batches, "on_devices", lambda cuts, mesh: bits_of(cuts[0]))


def in_threads(run: Callable[[int], Any]) -> list[Any]:
    results: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: run(n)})) for n in range(HOSTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == HOSTS
    return [results[n] for n in range(HOSTS)]


@given(
    st.lists(st.tuples(FEW, FEW), max_size=12),
    st.booleans(),
    st.sets(st.integers(0, 11)),
)
@settings(max_examples=60, deadline=None)
def test_all_hosts_cut_every_batch_alike(
    own: list[tuple[int, int]], rides: bool, passed_over: set[int]
) -> None:
    link = Link()

    def summed_bits(cuts: Any, mesh: Any) -> list[int]:
        bits = np.stack([bits_of(number) for number in cuts])
        return [cuts_of(row) for row in link.add("agree", bits)]

    def host(number: int) -> tuple[list[Batch], list[tuple[int, int]], Squeezed]:
        batches, again = stream([cuts[number] for cuts in own], rides)
        taken: list[Any] = []
        for batch in batches:
            taken.append(batch)
            if rides and batch.step not in passed_over:
                batches.tell(link.add("step", batch.riding))  # type: ignore[attr-defined]
        return taken, again, batches.take_squeezed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreed_batches, "agree", summed_bits)
        patch.setattr(agreed_batches, "on_devices", lambda cuts, mesh: bits_of(cuts[0]))
        results = in_threads(host)

    together = [one | other for one, other in own]
    for number, (taken, again, squeezed) in enumerate(results):
        assert [batch.step for batch in taken] == list(range(len(own)))
        assert [batch.cuts for batch in taken] == together
        # Made once more only where the other host needs more.
        mine = [cuts[number] for cuts in own]
        assert again == [(n, all_) for n, all_ in enumerate(together) if all_ != mine[n]]
        assert squeezed.steps == sum(cuts > 0 for cuts in together)
        if rides:
            later = [*mine, *[0] * AHEAD][AHEAD:]
            assert [cuts_of(batch.riding) for batch in taken] == later
    if rides and not passed_over:
        assert link.calls == min(len(own), 1)


def test_an_error_is_raised_in_its_turn_and_again(one_host: None) -> None:
    batches, _ = stream([0, 5, 0], rides=True, error=ValueError("bad row"))
    taken = [next(batches) for _ in range(3)]
    assert [batch.cuts for batch in taken] == [0, 5, 0]
    for _ in range(2):
        with pytest.raises(ValueError, match="bad row"):
            next(batches)


def test_without_minibatching_nothing_is_looked_at_ahead() -> None:
    pipe: Any = Pipe(iter([Batch(0, 0), Batch(1, 0)]))
    mesh: Any = None
    batches = AgreedBatches(pipe, mesh, None, rides=True)
    assert next(batches).step == 0
    assert next(pipe.batches).step == 1
    batches.tell(None)
    assert batches.take_seconds() == {"encode": 1.0}
    batches.close()
    assert pipe.closed
