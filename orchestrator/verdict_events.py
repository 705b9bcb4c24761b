"""A verdict in words: the events to record, and the error to end with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator import events
from orchestrator.errors import HostError, RunFailed
from orchestrator.policies import Fatal, Lost, OverLimits, Verdict
from orchestrator.roster import HostView

__all__ = ["error_of", "gave_up", "trouble_events"]


def trouble_events(verdict: Verdict, launch: int, now: float) -> Iterator[events.Event]:
    """What happened to each culprit."""
    if isinstance(verdict, Fatal | OverLimits):
        yield _raised(verdict.culprit, launch)
        return
    for host in verdict.culprits:
        match verdict.cause:
            case "died":
                yield events.HostDied(host.rank, host.pid, launch, host.died or "unknown")
            case "frozen":
                age = round(host.silent_for(now), 3)
                yield events.HostFrozen(host.rank, host.pid, launch, age)
            case "late":
                pulse = host.pulse
                yield events.HostLate(
                    host.rank,
                    host.pid,
                    launch,
                    pulse and pulse.phase,
                    None if pulse is None else pulse.step,
                )
            case "raised":
                yield _raised(host, launch)


def error_of(verdict: Fatal, doing: str, last_words: Mapping[int, str]) -> Exception:
    """The error that ends the run: emberay's own as it is, any other with its surroundings."""
    if not isinstance(verdict.error, HostError):
        return verdict.error
    cause = f"{verdict.culprit.name} failed while {doing}: {verdict.error}"
    if verdict.culprit.traceback:
        cause = f"{cause}\n{verdict.culprit.traceback.rstrip()}"
    return RunFailed(cause, last_words)


def gave_up(
    verdict: Lost, furthest: int, attempts: int, last_words: Mapping[int, str]
) -> RunFailed:
    """The error of a run that does not get further however often it is started anew."""
    tries = "a failure, and failures.max_restarts is 0" if attempts == 1 else f"{attempts} failures"
    return RunFailed(
        f"gave up at step {furthest} after {tries} in a row without a step further; the last: "
        f"{verdict.reason}",
        last_words,
    )


def _raised(host: HostView, launch: int) -> events.HostRaised:
    error = host.error
    named = str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"
    return events.HostRaised(host.rank, host.pid, launch, named, host.traceback)
