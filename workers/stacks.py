"""The stacks of this process's threads, as text."""

from __future__ import annotations

import faulthandler
import tempfile

__all__ = ["stacks_of_threads"]


def stacks_of_threads() -> str:
    """The Python stack of every thread; may be called on any of them."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
