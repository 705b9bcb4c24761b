"""A call that may hang, such as one to a network file system whose server is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["within"]


def within[T](seconds: float, call: Callable[[], T]) -> T:
    """The result of a call, if it comes in time; the call is left to itself otherwise.

    Args:
        seconds: Longest wait.
        call: Is run on a thread that does not keep the process alive.

    Raises:
        TimeoutError: It has not returned by then.
        Exception: What the call raised.

    Example:
        >>> within(1.0, lambda: 2 + 2)
        4
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="within")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]
