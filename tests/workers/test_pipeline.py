"""Stages in threads: order, bounds, errors, stopping."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.pipeline import Pipeline


def test_items_come_in_order_through_all_stages() -> None:
    pipeline = Pipeline(iter(range(50)), [("double", lambda x: 2 * x), ("text", str)])
    assert list(pipeline) == [str(2 * x) for x in range(50)]
    pipeline.close()


@pytest.mark.parametrize("failing", ["source", "first", "second"])
def test_an_error_in_any_stage_reaches_the_consumer_after_the_good_items(failing: str) -> None:
    def source() -> Iterator[int]:
        for value in range(10):
            if failing == "source" and value == 3:
                raise ValueError("broken source")
            yield value

    def stage(name: str, value: int) -> int:
        if failing == name and value == 3:
            raise ValueError(f"broken {name}")
        return value

    pipeline = Pipeline(
        source(), [("first", lambda x: stage("first", x)), ("second", lambda x: stage("second", x))]
    )
    assert [next(pipeline) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=f"broken {failing}"):
        next(pipeline)
    pipeline.close()


def test_it_runs_ahead_no_further_than_its_queues() -> None:
    made = []

    def source() -> Iterator[int]:
        for value in range(1000):
            made.append(value)
            yield value

    pipeline = Pipeline(source(), [("same", lambda x: x)], depth=2)
    time.sleep(0.5)
    assert len(made) <= 8
    before = set(threading.enumerate())
    pipeline.close()
    assert {"read", "same"} <= {thread.name for thread in before - set(threading.enumerate())}


def test_busy_seconds_name_the_slow_stage() -> None:
    def slow(value: int) -> int:
        time.sleep(0.05)
        return value

    pipeline = Pipeline(iter(range(10)), [("slow", slow), ("fast", lambda x: x)])
    list(pipeline)
    seconds = pipeline.take_seconds()
    assert set(seconds) == {"read", "slow", "fast"}
    assert seconds["slow"] > 2 * max(seconds["read"], seconds["fast"])
    assert pipeline.take_seconds()["slow"] == 0
    pipeline.close()


class Broken(Exception):
    """Raised by stages under test."""


delays = st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.003]), min_size=4, max_size=4)


@given(
    items=st.integers(0, 25),
    depth=st.integers(1, 4),
    delays=delays,
    failing=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 25)),
    taken=st.integers(0, 30),
)
@settings(max_examples=40, deadline=None)
def test_whatever_the_delays_and_failures_items_come_in_order_and_all_threads_end(
    items: int,
    depth: int,
    delays: list[float],
    failing: tuple[int, int] | None,
    taken: int,
) -> None:
    """Stage 0 is the source; the consumer leaves after ``taken`` items."""
    held = Counter()

    def passed(stage: int, value: int) -> int:
        time.sleep(delays[stage] * (value % 3))
        if failing == (stage, value):
            raise Broken(f"stage {stage}, item {value}")
        held[stage] += 1
        return value

    def source() -> Iterator[int]:
        for value in range(items):
            yield passed(0, value)

    before = set(threading.enumerate())
    stages = [(f"s{stage}", lambda v, stage=stage: passed(stage, v)) for stage in (1, 2, 3)]
    pipeline = Pipeline(source(), stages, depth=depth)
    good = items if failing is None or failing[1] >= items else failing[1]
    for expected in range(min(taken, good)):
        assert next(pipeline) == expected
        assert held[0] - expected <= 4 * (depth + 1) + 1, "ran ahead of its queues"
    if taken > good and good == items:
        with pytest.raises(StopIteration):
            next(pipeline)
    elif taken > good and failing is not None:
        for _ in range(2):
            with pytest.raises(Broken, match=f"stage {failing[0]}, item {good}") as caught:
                next(pipeline)
        name = "read" if failing[0] == 0 else f"s{failing[0]}"
        assert f"in stage '{name}' of the data pipeline" in caught.value.__notes__
    assert pipeline.close() == ()
    assert pipeline.close() == ()
    assert set(threading.enumerate()) <= before
    assert all(seconds >= 0 for seconds in pipeline.take_seconds().values())


def test_close_does_not_wait_longer_than_its_deadline_and_names_who_hangs() -> None:
    release = threading.Event()
    pipeline = Pipeline(iter(range(5)), [("stuck", lambda x: release.wait()), ("after", str)])
    started = time.monotonic()
    assert pipeline.close(deadline=0.3) == ("stuck",)
    assert time.monotonic() - started < 5
    release.set()
    assert pipeline.close() == ()


def test_a_consumer_that_waits_is_let_go_by_close() -> None:
    release, ended = threading.Event(), []
    pipeline = Pipeline(iter(range(5)), [("stuck", lambda x: release.wait())])
    consumer = threading.Thread(target=lambda: ended.append(next(pipeline, "closed")))
    consumer.start()
    pipeline.close(deadline=0.1)
    consumer.join(10)
    assert ended == ["closed"]
    release.set()


def test_a_source_may_count_its_own_stages_and_is_closed_at_the_end() -> None:
    class Source:
        closed = 0
        left = 3

        def __next__(self) -> int:
            if not self.left:
                raise StopIteration
            self.left -= 1
            return self.left

        def take_seconds(self) -> dict[str, float]:
            return {"download": 2.0, "unpack": 1.0}

        def close(self) -> None:
            self.closed += 1

    source = Source()
    pipeline = Pipeline(source, [("same", lambda x: x)])
    assert list(pipeline) == [2, 1, 0]
    assert pipeline.take_seconds().keys() == {"download", "unpack", "same"}
    pipeline.close()
    assert source.closed == 1
