"""A command that stands for ``train``: it counts steps, saves on SIGTERM, and tells who runs.

    python fake_training.py CONFIG RUN_FOLDER

What it does besides is in ``parameters``: ``fails`` ends it so (``error``, ``killed``,
``no_figure``), ``together`` waits for so many to run at a time, ``waits`` for a signal, once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

DEADLINE = time.monotonic() + 20.0


def wait_until(condition: Any) -> None:
    while not condition():
        if time.monotonic() > DEADLINE:
            sys.exit("error: nothing came")
        time.sleep(0.01)


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    folder, parameters = Path(sys.argv[2]), config["parameters"]
    folder.mkdir(parents=True, exist_ok=True)
    steps = folder / "steps"
    done = int(steps.read_text()) if steps.exists() else 0
    with (folder / "starts").open("a") as file:
        file.write(f"{done}\n")

    def leave(number: int, frame: object) -> None:
        steps.write_text("7")
        (folder / "running").unlink()
        sys.exit(130)

    signal.signal(signal.SIGTERM, leave)
    (folder / "running").touch()

    def running() -> int:
        return len(list(folder.parent.glob("*/running")))

    together = folder.parent / "together"
    if parameters.get("together"):
        most = folder / "most"
        most.write_text(str(running()))
        wait_until(lambda: running() >= parameters["together"] or together.exists())
        most.write_text(str(max(running(), int(most.read_text()))))
        together.touch()
    if parameters.get("waits") and not done:
        wait_until(lambda: False)
    (folder / "running").unlink()
    match parameters.get("fails"):
        case "error":
            print("error: the model is too wide")
            sys.exit(1)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    total = config["max_steps"] or 20
    steps.write_text(str(total))
    auc = None if parameters.get("fails") == "no_figure" else parameters.get("auc", 0.5)
    if auc is not None:
        auc += config["seed"] / 100 + total / 1e6
    summary = {
        "status": "finished",
        "run_folder": str(folder),
        "program": "fake",
        "steps": total,
        "epochs": 1,
        "examples": 10 * total,
        "examples_per_second": 10.0,
        "seconds": 1.0,
        "goodput": {},
        "metrics": {"test": {"auc": auc, "loss": 0.5}},
        "restarts": 0,
        "hosts": config["hosts"],
        "devices": 2,
    }
    (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main()
