"""Many small requests at a time: an object store takes longest to begin to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

__all__ = ["MOST_AT_ONCE", "in_order"]

MOST_AT_ONCE = 16
"""Requests under way: they wait far more than they compute."""


def in_order[A, B](function: Callable[[A], B], values: Iterable[A]) -> Iterator[B]:
    """``map``, with some calls at a time on threads; results come in the order of the values.

    What the first call to fail raises is raised in its place; calls that have not begun by then,
    or when the iterator is closed, are left out.
    """
    pool = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="requests")
    try:
        yield from pool.map(function, values)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
