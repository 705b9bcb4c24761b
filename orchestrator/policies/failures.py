"""What is wrong with the hosts, whose fault it is, and what can be done.

When one host dies or hangs, the others fail too: their collectives break, or wait for ever. So what
is seen first is often a consequence. In order of belief, the root cause is:

1. limits that were too small: plan again;
2. an error that will come again (the user's data or program, a mismatch of plans): give up;
3. a process that is gone;
4. a host whose pulse has stopped;
5. an error that another's trouble may have caused, that of a checkpoint among them as all hosts
   read it together: believed only after a grace period in which none of the above showed itself;
6. a deadline that passed while all pulses were fresh: the host that lags behind, or all that are
   missing if none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kernels.errors import EmberayError, LimitsExceeded, Overflow
from orchestrator.config import FailureConfig
from orchestrator.errors import HostError
from orchestrator.roster import HostView
from workers.errors import CheckpointError

__all__ = ["Fatal", "Lost", "OverLimits", "Verdict", "judge", "restart_pause"]

_LONGEST_PAUSE = 30.0


_TOGETHER = ("joining", "restoring", "training", "evaluating", "finishing")
"""Phases in which a host may be waiting for the others."""


@dataclass(frozen=True)
class Fatal:
    """An error that another try of the same would only repeat."""

    culprit: HostView
    error: Exception


@dataclass(frozen=True)
class OverLimits:
    """A batch did not fit into the plan's limits."""

    culprit: HostView
    error: LimitsExceeded
    """Holds the overflows of all hosts that have reported some."""


@dataclass(frozen=True)
class Lost:
    """The group cannot go on as it is; another try may help."""

    cause: Literal["died", "frozen", "raised", "late"]
    culprits: tuple[HostView, ...]
    reason: str
    """Names the culprits and what they did, in one sentence."""

    @property
    def hanging(self) -> bool:
        """Whether hosts hang, so that their stacks are worth having."""
        return self.cause in ("frozen", "late")


type Verdict = Fatal | OverLimits | Lost


def judge(
    hosts: Sequence[HostView],
    *,
    doing: str,
    deadline: float,
    now: float,
    settings: FailureConfig,
) -> Verdict | None:
    """Find what is wrong, if anything is, or if it is still too early to tell.

    Args:
        hosts: All hosts.
        doing: What they were told to do, as in "while they were …", for the reason.
        deadline: When they must have done it, on the clock of ``now``.
        now: The time.
        settings: Deadlines and grace.
    """
    raised = [host for host in hosts if host.error is not None]
    over = [host for host in raised if isinstance(host.error, LimitsExceeded)]
    if over:
        return OverLimits(over[0], _all_overflows(over))
    for host in raised:
        if host.error is not None and _will_come_again(host.error):
            return Fatal(host, host.error)

    dead = [host for host in hosts if host.died is not None]
    if dead:
        first = dead[0]
        return Lost(
            "died", tuple(dead), f"{_names(dead)} died while {doing}: {first.died or 'no reason'}"
        )

    frozen = [host for host in hosts if host.silent_for(now) > settings.pulse_deadline]
    if frozen:
        return Lost("frozen", tuple(frozen), _frozen_reason(frozen, doing, now))

    first_error = min((host.error_at for host in raised if host.error_at is not None), default=None)
    if first_error is not None:
        if now < first_error + settings.grace:
            return None
        suspects = [h for h in hosts if h.silent_for(now) > _suspicious_silence(settings)]
        if suspects:
            return Lost("frozen", tuple(suspects), _frozen_reason(suspects, doing, now))
        for host in raised:
            if isinstance(host.error, CheckpointError):
                return Fatal(host, host.error)
        culprit = min(raised, key=lambda host: (host.error_at, host.rank))
        return Lost(
            "raised",
            (culprit,),
            f"{culprit.name} failed while {doing}, and no host died or froze: {culprit.error}",
        )

    if now >= deadline:
        return _late(hosts, doing)
    return None


def restart_pause(restarts_in_a_row: int, settings: FailureConfig) -> float:
    """Seconds to wait before starting anew: none the first time, then doubling up to 30."""
    if restarts_in_a_row <= 1:
        return 0.0
    return min(settings.restart_delay * 2.0 ** min(restarts_in_a_row - 2, 16), _LONGEST_PAUSE)


def _will_come_again(error: Exception) -> bool:
    if isinstance(error, HostError):
        return not error.transient
    return isinstance(error, EmberayError) and not isinstance(error, CheckpointError)


def _all_overflows(hosts: Sequence[HostView]) -> LimitsExceeded:
    """One error for all hosts; of overflows of the same limit, the largest."""
    largest: dict[tuple[str, str], Overflow] = {}
    for host in hosts:
        if isinstance(host.error, LimitsExceeded):
            for overflow in host.error.overflows:
                place = overflow.stack, overflow.limit
                known = largest.get(place, overflow)
                largest[place] = max(known, overflow, key=lambda one: one.observed)
    return LimitsExceeded(list(largest.values()))


def _suspicious_silence(settings: FailureConfig) -> float:
    """Silence that explains the others' errors, though it is short of the deadline."""
    return max(settings.pulse_deadline / 2, settings.grace + 2 * settings.pulse_interval)


def _frozen_reason(frozen: Sequence[HostView], doing: str, now: float) -> str:
    oldest = max(host.silent_for(now) for host in frozen)
    return f"{_names(frozen)} froze while {doing}: no pulse for {oldest:.1f} s"


def _late(hosts: Sequence[HostView], doing: str) -> Lost:
    """Name the hosts that hold the others up: those that lag behind.

    A host that waits in a collective has dispatched its step and says so; the culprit has done
    fewer steps, or is busy with something that it does alone. Where all that are missing are at
    the same point, nothing tells them apart, and all are named.
    """
    missing = [host for host in hosts if host.reply is None]
    absent = [host for host in missing if host.hello is None]
    if absent:
        return Lost(
            "late",
            tuple(absent),
            f"{_names(absent)} did not start in time (failures.launch_timeout): has the cluster "
            "room for them?",
        )
    furthest_back = min(map(_reached, missing))
    culprits = [host for host in missing if _reached(host) == furthest_back]
    pulse = culprits[0].pulse
    where = f"{pulse.phase} at step {pulse.step}, with a fresh pulse" if pulse else "not heard of"
    if len(culprits) == 1:
        reason = f"{culprits[0].name} held the others up while {doing}: it is {where}"
    else:
        reason = (
            f"{_names(culprits)} did not finish in time while {doing}: they are all {where}, and "
            "nothing tells which of them held the others up"
        )
    return Lost("late", tuple(culprits), reason)


def _reached(host: HostView) -> tuple[int, int]:
    """How far a host is: its step, and within it alone, in a collective, or saving what is done."""
    pulse = host.pulse
    if pulse is None:
        return (-1, 0)
    if pulse.phase == "saving":
        return (pulse.step, 2)
    return (pulse.step, 1 if pulse.phase in _TOGETHER else 0)


def _names(hosts: Sequence[HostView]) -> str:
    shown = ", ".join(host.name for host in hosts[:3])
    return shown if len(hosts) <= 3 else f"{shown} and {len(hosts) - 3} more"
