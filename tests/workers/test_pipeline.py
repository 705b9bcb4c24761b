"""Stages in threads: order, bounds, errors, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

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
    before = threading.active_count()
    pipeline.close()
    assert threading.active_count() == before - 2


def test_busy_seconds_name_the_slow_stage() -> None:
    def slow(value: int) -> int:
        time.sleep(0.01)
        return value

    pipeline = Pipeline(iter(range(10)), [("slow", slow), ("fast", lambda x: x)])
    list(pipeline)
    seconds = pipeline.take_seconds()
    assert set(seconds) == {"read", "slow", "fast"}
    assert seconds["slow"] > 10 * max(seconds["read"], seconds["fast"])
    assert pipeline.take_seconds()["slow"] == 0
    pipeline.close()
