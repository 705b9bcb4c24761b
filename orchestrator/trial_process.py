"""A trial's process: the command line, ended in good order if the experiment's process dies.

    python -m orchestrator.trial_process PARENT train FILE --run-dir DIR --resume

``PARENT`` is the process id of the experiment.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

__all__ = ["end_with", "main"]

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """From now on, get SIGTERM when the parent dies. Only on Linux.

    Args:
        parent: Its process id.

    Raises:
        SystemExit: It is dead already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGTERM)


def main() -> None:
    """Run ``python -m orchestrator`` with the words after the parent's process id."""
    end_with(int(sys.argv.pop(1)))
    runpy.run_module("orchestrator", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
