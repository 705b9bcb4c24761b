"""Requests are under way together, and come back in order."""

from __future__ import annotations

import threading

import pytest

from workers.data.waiting_together import MOST_AT_ONCE, in_order


def test_requests_wait_together_and_answers_keep_their_order():
    together = threading.Barrier(MOST_AT_ONCE)

    def ask(value: int) -> int:
        together.wait(timeout=60)  # breaks where fewer are under way
        return value * value

    values = range(2 * MOST_AT_ONCE)
    assert list(in_order(ask, values)) == [value * value for value in values]


def test_the_first_failure_is_raised_and_the_rest_left_out():
    asked: list[int] = []
    go = threading.Event()

    def ask(value: int) -> int:
        asked.append(value)
        if value == 0:
            raise OSError("no answer")
        go.wait(60)
        return value

    with pytest.raises(OSError, match="no answer"):
        list(in_order(ask, range(1000)))
    go.set()
    assert len(asked) < 1000
