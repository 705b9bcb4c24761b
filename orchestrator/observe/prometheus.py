"""Figures of the run for Prometheus: Ray serves them on the node that the driver runs on."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from orchestrator import events
from orchestrator.events import Event, as_record
from orchestrator.report.timeline import Accountant

__all__ = ["METRICS", "Measure", "Prometheus", "Recorder"]


@dataclass(frozen=True)
class Measure:
    """A metric. Prometheus knows it as ``ray_<name>``, a counter as ``ray_<name>_total``."""

    kind: Literal["gauge", "counter"]
    words: str
    tags: tuple[str, ...] = ()
    """Besides ``run``, the name of the run's folder."""


METRICS: Mapping[str, Measure] = {
    "emberay_step": Measure("gauge", "Steps done by the present state."),
    "emberay_total_steps": Measure("gauge", "Steps of the whole run."),
    "emberay_loss": Measure("gauge", "Mean training loss of the newest lease."),
    "emberay_evaluation": Measure(
        "gauge", "Figures of the newest evaluation.", ("split", "figure")
    ),
    "emberay_examples": Measure("counter", "Examples trained on, repeated ones too."),
    "emberay_examples_per_second": Measure(
        "gauge", "Examples per second of the newest lease, compiling left out."
    ),
    "emberay_seconds": Measure(
        "counter", "Wall seconds of the run by kind: training is the goodput.", ("kind",)
    ),
    "emberay_hosts": Measure("gauge", "Hosts in the mesh."),
    "emberay_restarts": Measure("counter", "Recoveries from lost hosts."),
    "emberay_host_waiting": Measure(
        "gauge", "Share of its newest lease that a host waited for data.", ("host",)
    ),
    "emberay_host_memory_bytes": Measure("gauge", "Resident memory of a host.", ("host",)),
    "emberay_device_memory_bytes": Measure(
        "gauge", "Most that was in use on a device of a host.", ("host",)
    ),
}
"""All metrics, by name."""


class Recorder(Protocol):
    """What takes the values: Ray's metrics."""

    def __call__(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Set a gauge, or add to a counter."""
        ...


class Prometheus:
    """Tells Ray the run's figures. As long as Ray is not running here, it tells nobody.

    Args:
        run: Name of the run, a tag of every value.
        connect: Gives what takes the values, or None while there is nothing.
    """

    def __init__(self, run: str, connect: Callable[[str], Recorder | None] | None = None) -> None:
        self._run = run
        self._connect = connect or _ray_recorder
        self._recorder: Recorder | None = None
        self._accountant = Accountant()
        self._seconds: dict[str, float] = {}
        """By kind, not told yet."""

    def __call__(self, time: float, event: Event) -> None:
        """See ``orchestrator.events.Sink``."""
        self._recorder = self._recorder or self._connect(self._run)
        self._accountant.take(as_record(time, event))
        for span in self._accountant.taken():
            for kind, share in span.shares.items():
                spent = share * (span.end - span.start)
                self._seconds[kind] = self._seconds.get(kind, 0.0) + spent
        if self._recorder is None:
            return
        for kind, spent in self._seconds.items():
            self._tell("emberay_seconds", spent, kind=kind)
        self._seconds = {}
        match event:
            case events.MeshJoined():
                self._tell("emberay_hosts", event.hosts)
                self._tell("emberay_total_steps", self._accountant.total_steps)
            case events.Restored():
                self._tell("emberay_step", event.step)
            case events.LeaseDone():
                self._lease(event)
            case events.Evaluated():
                for figure, value in event.metrics.items():
                    self._tell("emberay_evaluation", value, split=event.split, figure=figure)
            case events.Recovering():
                self._tell("emberay_restarts", 1)

    def _lease(self, lease: events.LeaseDone) -> None:
        self._tell("emberay_step", lease.last)
        if lease.loss is not None:
            self._tell("emberay_loss", lease.loss)
        self._tell("emberay_examples", lease.examples)
        seconds = lease.elapsed - lease.seconds.get("compiling", 0.0)
        if seconds <= 0 or lease.last == lease.first:
            return
        self._tell("emberay_examples_per_second", lease.examples / seconds)
        for reply in lease.replies:
            host = str(reply.rank)
            waited = reply.seconds.get("waiting_for_data", 0.0)
            self._tell("emberay_host_waiting", waited / seconds, host=host)
            self._tell("emberay_host_memory_bytes", reply.memory.process, host=host)
            if reply.memory.device:
                self._tell("emberay_device_memory_bytes", reply.memory.device, host=host)

    def _tell(self, name: str, value: float | None, **tags: str) -> None:
        counts = METRICS[name].kind == "counter"
        if self._recorder is None or value is None or not math.isfinite(value):
            return
        if not counts or value > 0:
            self._recorder(name, float(value), {"run": self._run, **tags})


def _ray_recorder(run: str) -> Recorder | None:
    """Ray's metrics, once this process is connected to Ray.

    Ray is not imported here: ``RaySession`` sets its settings in the environment before.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util import metrics

    made: dict[str, Any] = {
        name: (metrics.Counter if measure.kind == "counter" else metrics.Gauge)(
            name, measure.words, ("run", *measure.tags)
        )
        for name, measure in METRICS.items()
    }

    def record(name: str, value: float, tags: Mapping[str, str]) -> None:
        metric = made[name]
        if METRICS[name].kind == "counter":
            metric.inc(value, dict(tags))
        else:
            metric.set(value, dict(tags))

    return record
