"""``python -m orchestrator``: see ``orchestrator.cli``."""

from __future__ import annotations

import os
import sys

from orchestrator.installation import WrongPackageError, check_installation


def _run() -> int:
    # Devices are the hosts': a backend that starts here by accident must not take them. JAX reads
    # this when it is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        check_installation()
    except WrongPackageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from orchestrator.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(_run())
