"""Random faults for a real run: when they strike, whom, and how; all drawn from a seed."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tests.runs import Run

__all__ = ["MOMENTS", "Moment", "Strike", "moment_has_come", "strike", "strikes"]

type Moment = Literal["starting", "restoring", "compiling", "training", "saving", "evaluating"]

MOMENTS: tuple[Moment, ...] = get_args(Moment.__value__)


@dataclass(frozen=True)
class Strike:
    """One fault.

    Attributes:
        moment: What the hosts are at: joining the mesh, restoring, compiling (they have just
            restored), training, saving (a checkpoint has been begun, which is written while
            training goes on), or evaluating.
        step: For the last three, steps that are done when it strikes, at least.
        ranks: The hosts that are struck, at the same time; none if the driver is.
        number: SIGKILL or SIGSTOP.
        delay: Seconds after the moment has come.
    """

    moment: Moment
    step: int
    ranks: tuple[int, ...]
    number: signal.Signals
    delay: float

    @property
    def on_driver(self) -> bool:
        """Whether the driver is killed, and not hosts."""
        return not self.ranks


def strikes(seed: int, count: int, hosts: int, steps: int) -> list[Strike]:
    """Faults in the order in which they strike.

    Args:
        seed: The same seed gives the same faults.
        count: How many.
        hosts: Hosts of the run.
        steps: Steps of the run; the last one strikes before three quarters of them are done, or
            soon after.

    Returns:
        The faults; those that do not strike in training do so after the one before them.
    """
    chance = random.Random(seed)
    at = sorted(chance.randint(1, steps * 3 // 4) for _ in range(count))
    drawn: list[Strike] = []
    for index, step in enumerate(at):
        first = index == 0
        moment = "training" if first else chance.choice(("training", *MOMENTS))
        struck = chance.sample(range(hosts), 2 if hosts > 1 and chance.random() < 0.2 else 1)
        number = signal.SIGKILL if chance.random() < 0.7 else signal.SIGSTOP
        delay = chance.uniform(0.0, 0.5)
        if chance.random() < 0.15 and not first:
            struck, number = [], signal.SIGKILL
        drawn.append(Strike(moment, step, tuple(sorted(struck)), number, delay))
    return drawn


def strike(
    run: Run, fault: Strike, launch: int, hosts: int, evaluates: int, seconds: float = 600.0
) -> int:
    """Wait for a fault's moment in a launch or a later one, and send the signals.

    Args:
        run: The run.
        fault: What happens.
        launch: The first launch in which it may strike.
        hosts: Hosts of the run.
        evaluates: Steps between evaluations.
        seconds: Longest wait.

    Returns:
        The launch that was struck.
    """

    def come(run: Run) -> dict[int, int] | None:
        """Process ids of the newest launch by rank, if the moment has come in it."""
        started = [event for event in run.events("host_started") if event["launch"] >= launch]
        newest = max((event["launch"] for event in started), default=-1)
        pids = {event["rank"]: event["pid"] for event in started if event["launch"] == newest}
        if len(pids) < hosts or not moment_has_come(fault, newest, run.events(), evaluates):
            return None
        return {"launch": newest, **pids}  # type: ignore[dict-item]

    found = run.wait_for(come, seconds, what=str(fault))
    time.sleep(fault.delay)
    struck = [run.process.pid] if fault.on_driver else [found[rank] for rank in fault.ranks]
    for pid in struck:
        try:
            os.kill(pid, fault.number)
        except ProcessLookupError:
            # An earlier fault's recovery has ended it already.
            continue
    return found["launch"]


def moment_has_come(
    fault: Strike, launch: int, events: list[dict[str, Any]], evaluates: int
) -> bool:
    """Whether hosts of a launch, all of which have started, are at what a fault waits for.

    Args:
        fault: The fault.
        launch: The launch.
        events: The run's journal so far.
        evaluates: Steps between evaluations. None has an event for its beginning: it begins when
            a lease ends at a multiple of this.
    """
    after: list[str] = []
    done = 0
    for event in events:
        if event["kind"] == "launching" and event["launch"] == launch:
            after = []
        after.append(event["kind"])
        if event["kind"] == "lease_done":
            done = event["last"]
    late_enough = "lease_done" in after and done >= fault.step
    match fault.moment:
        case "starting":
            return True
        case "restoring":
            return "restoring" in after
        case "compiling":
            return "restored" in after
        case "training":
            return late_enough
        case "saving":
            return late_enough and "checkpoint_started" in after[-2:]
        case "evaluating":
            at_lease_end = after[-1] in ("lease_done", "checkpoint_started")
            return late_enough and at_lease_end and done % evaluates == 0
