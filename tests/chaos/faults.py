"""Random faults for a real run: when they strike, whom, and how; all drawn from a seed."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from typing import Literal

from tests.runs import Run

__all__ = ["Strike", "strike", "strikes"]

type Moment = Literal["starting", "restoring", "compiling", "training"]


@dataclass(frozen=True)
class Strike:
    """One fault.

    Attributes:
        moment: What the hosts are at: joining the mesh, restoring, compiling (they have just
            restored), or training.
        step: For ``training``, steps that are done when it strikes.
        ranks: The hosts that are struck, at the same time.
        number: SIGKILL or SIGSTOP.
        delay: Seconds after the moment has come.
    """

    moment: Moment
    step: int
    ranks: tuple[int, ...]
    number: signal.Signals
    delay: float


def strikes(seed: int, count: int, hosts: int, steps: int) -> list[Strike]:
    """Faults in the order in which they strike.

    Args:
        seed: The same seed gives the same faults.
        count: How many.
        hosts: Hosts of the run.
        steps: Steps of the run; the last one strikes before four fifths of them are done.

    Returns:
        The faults; those that do not strike in training do so after the one before them.
    """
    chance = random.Random(seed)
    at = sorted(chance.randint(1, steps * 4 // 5) for _ in range(count))
    drawn: list[Strike] = []
    for index, step in enumerate(at):
        moments: list[Moment] = ["training", "training", "starting", "restoring", "compiling"]
        struck = chance.sample(range(hosts), 2 if hosts > 1 and chance.random() < 0.2 else 1)
        kill = chance.random() < 0.7
        drawn.append(
            Strike(
                "training" if index == 0 else chance.choice(moments),
                step,
                tuple(sorted(struck)),
                signal.SIGKILL if kill else signal.SIGSTOP,
                chance.uniform(0.0, 0.5),
            )
        )
    return drawn


def strike(run: Run, fault: Strike, launch: int, hosts: int, seconds: float = 180.0) -> int:
    """Wait for a fault's moment in a launch or a later one, and send the signals.

    Args:
        run: The run.
        fault: What happens.
        launch: The first launch in which it may strike.
        hosts: Hosts of the run.
        seconds: Longest wait.

    Returns:
        The launch that was struck.
    """

    def come(run: Run) -> dict[int, int] | None:
        """Process ids of the newest launch by rank, if the moment has come in it."""
        started = [event for event in run.events("host_started") if event["launch"] >= launch]
        newest = max((event["launch"] for event in started), default=-1)
        pids = {event["rank"]: event["pid"] for event in started if event["launch"] == newest}
        if len(pids) < hosts:
            return None
        after: list[str] = []
        done = 0
        for event in run.events():
            if event["kind"] == "launching" and event["launch"] == newest:
                after = []
            after.append(event["kind"])
            if event["kind"] == "lease_done":
                done = event["last"]
        ready = {
            "starting": True,
            "restoring": "restoring" in after,
            "compiling": "restored" in after,
            "training": "lease_done" in after and done >= fault.step,
        }
        return {"launch": newest, **pids} if ready[fault.moment] else None  # type: ignore[dict-item]

    found = run.wait_for(come, seconds, what=str(fault))
    time.sleep(fault.delay)
    for rank in fault.ranks:
        try:
            os.kill(found[rank], fault.number)
        except ProcessLookupError:
            # An earlier fault's recovery has ended it already.
            continue
    return found["launch"]
