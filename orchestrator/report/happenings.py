"""What happened in a run, in words: faults, restarts, raised limits, ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.timeline import Mark

__all__ = ["FAULTS", "happenings", "in_words"]

FAULTS = frozenset(
    {
        "checkpoint_skipped",
        "failed",
        "handing_over",
        "recovering",
        "shrunk",
        "step_skipped",
        "steps_unrecorded",
    }
)
"""Kinds of events that are marked on the band of time."""

_OF_HOSTS = frozenset({"host_died", "host_frozen", "host_late", "host_raised"})
"""Kinds that are told by the recovery that follows."""


def happenings(marks: Sequence[Mark]) -> list[Mark]:
    """What a person wants to know of, in order.

    The first start is left out, and the loss of a host where the recovery from it tells the same.
    """
    started = [mark for mark in marks if mark.kind == "run_started"]
    told: list[Mark] = []
    recovered: Sequence[int] = ()
    for mark in reversed(marks):
        if mark.kind == "recovering":
            recovered = mark.event["culprits"]
        elif mark.kind == "launching":
            recovered = ()
        again = mark.kind in _OF_HOSTS and mark.event["rank"] in recovered
        if in_words(mark.event) and not again and mark not in started[:1]:
            told.append(mark)
    return told[::-1]


def in_words(event: Mapping[str, Any]) -> str | None:
    """An event in one sentence; None if it is a part of what goes well.

    Args:
        event: As ``events.jsonl`` holds it.
    """
    match event["kind"]:
        case "run_started":
            return f"another driver goes on with the run, on {event['hosts']} hosts"
        case "host_died":
            return f"{_host(event)} died: {event['reason']}"
        case "host_frozen":
            return f"{_host(event)} froze: no pulse for {event['pulse_age']:.1f} s"
        case "host_late":
            return f"{_host(event)} did not finish in time: {event['phase'] or 'phase unknown'}"
        case "host_raised":
            return f"{_host(event)} raised an error: {event['error']}"
        case "recovering":
            again = event["restarts_in_a_row"]
            more = f" (restart {again} in a row)" if again and again > 1 else ""
            return f"{event['reason']}; started anew from the last checkpoint{more}"
        case "shrunk":
            return f"{len(event['missing'])} hosts did not start; went on with {event['hosts']}"
        case "handing_over":
            why = {"preempted": "hosts had to leave", "room": "there was room for more hosts"}
            reason = why.get(event["reason"], event["reason"])
            return f"{reason}: saved, and went on with {event['hosts']} hosts"
        case "replanned":
            why = "a batch did not fit" if event["reason"] == "refused" else "batches did not fit"
            return (
                f"{why}: raised {event['limit']} of table stack {event['stack']} from "
                f"{event['allowed']:,} to hold {event['observed']:,}; plan {event['version']}"
            )
        case "squeezed" if event["dropped"]:
            return f"left out ids that found no room: {_dropped(event['dropped'])}"
        case "squeezed":
            return (
                f"{event['steps']} batches took up to {event['minibatches']} minibatches, steps "
                f"{event['first']} to {event['last'] - 1} of {event['split']}"
            )
        case "checkpoint_postponed":
            return f"no room for the checkpoint of step {event['step']}: {event['reason']}"
        case "checkpoint_skipped":
            return f"the checkpoint of step {event['step']} was unreadable: {event['reason']}"
        case "steps_unrecorded":
            return f"losses of steps {event['first']} to {event['last'] - 1} were not recorded"
        case "step_skipped":
            return f"step {event['step']} was left without effect: {event['reason']}"
        case "evaluation_cut":
            return f"the evaluation at step {event['step']} was left before its end"
        case "diagnosed":
            return f"{event['check']}: {event['what']}"
        case "stop_requested":
            return "asked to save and leave"
        case "interrupted":
            return f"left after {event['steps']:,} steps, as it was asked to"
        case "failed":
            return f"gave up: {event['error']}"
        case _:
            return None


def _host(event: Mapping[str, Any]) -> str:
    return f"host {event['rank']}" + (f" (pid {event['pid']})" if event.get("pid") else "")


def _dropped(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{ids:,} of table stack {name}" for name, ids in dropped.items())
