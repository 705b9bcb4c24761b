"""What is wrong with the hosts, whose fault it is, and what can be done.

When one host dies or hangs, the others fail too: their collectives break, or wait for ever. So what
is seen first is often a consequence. In order of belief, the root cause is:

1. an error that will come again (the user's data or program, a mismatch of plans): give up;
2. limits that were too small: plan again;
3. a process that is gone;
4. a host whose pulse has stopped;
5. an error that another's trouble may have caused: believed only after a grace period in which
   none of the above showed itself;
6. a deadline that passed while all pulses were fresh: the host that lags behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kernels.errors import EmberayError, LimitsExceeded
from orchestrator.config import FailureConfig
from orchestrator.errors import HostError
from orchestrator.roster import HostView

__all__ = ["Fatal", "Lost", "OverLimits", "Verdict", "judge", "restart_pause"]

_LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class Fatal:
    """An error that another try would only repeat."""

    culprit: HostView
    error: Exception


@dataclass(frozen=True)
class OverLimits:
    """A batch did not fit into the plan's limits."""

    culprit: HostView
    error: LimitsExceeded


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
    for host in raised:
        if isinstance(host.error, LimitsExceeded):
            return OverLimits(host, host.error)
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
    return isinstance(error, EmberayError)


def _suspicious_silence(settings: FailureConfig) -> float:
    """Silence that explains the others' errors, though it is short of the deadline."""
    return max(settings.pulse_deadline / 2, settings.grace + 2 * settings.pulse_interval)


def _frozen_reason(frozen: Sequence[HostView], doing: str, now: float) -> str:
    oldest = max(host.silent_for(now) for host in frozen)
    return f"{_names(frozen)} froze while {doing}: no pulse for {oldest:.1f} s"


def _late(hosts: Sequence[HostView], doing: str) -> Lost:
    """Name the host that holds the others up: the one that lags behind.

    A host that waits in a collective has dispatched its step and says so; the culprit has done
    fewer steps, or is busy with something else, or has been at it for longest.
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

    def lag(host: HostView) -> tuple[int, bool, float, int]:
        if host.pulse is None:
            return (-1, False, 0.0, host.rank)
        waiting = host.pulse.phase == "training"
        return (host.pulse.step, waiting, -host.pulse.phase_seconds, host.rank)

    culprit = min(missing, key=lag)
    where = (
        f"{culprit.pulse.phase} at step {culprit.pulse.step}" if culprit.pulse else "not heard of"
    )
    return Lost(
        "late",
        (culprit,),
        f"{culprit.name} held the others up while {doing}: it is {where}, and its pulse is fresh",
    )


def _names(hosts: Sequence[HostView]) -> str:
    shown = ", ".join(host.name for host in hosts[:3])
    return shown if len(hosts) <= 3 else f"{shown} and {len(hosts) - 3} more"
