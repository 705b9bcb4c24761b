"""The section on hosts: what each spent its steps on, and its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.report.charts import LineChart, line_chart
from orchestrator.report.curves import memory_curves
from orchestrator.report.reading import RunRecord
from orchestrator.report.words import data_table, duration, element, size, text

__all__ = ["HostShare", "host_section", "host_shares"]

_STEP = {
    "training": "var(--kind-training)",
    "waiting_for_data": "var(--kind-waiting_for_data)",
    "compiling": "var(--kind-compiling)",
    "saving": "var(--kind-saving)",
}
"""Kinds of a host's own time that are shown, with their colours."""
_PIPELINE = ("read", "transform", "pick", "encode", "put")
_MOST = 16
"""Hosts that are shown one by one."""


@dataclass(frozen=True)
class HostShare:
    """What one host of the newest launch did, over all of its leases."""

    rank: int
    steps: int
    seconds: Mapping[str, float]
    """By kind."""
    stages: Mapping[str, float]
    """Busy seconds of the data pipeline."""
    memory: int
    """Most bytes of its process at the end of a lease."""
    device_memory: int

    @property
    def busy(self) -> float:
        """Seconds that its data pipeline was busy, over all stages."""
        return sum(self.stages.values())


def host_shares(run: RunRecord) -> list[HostShare]:
    """Every host of the newest launch that did a lease, by rank."""
    if not run.hosts:
        return []
    launch = run.hosts[-1]["launch"]
    lines = [line for line in run.hosts if line["launch"] == launch]
    hosts = len(lines[-1]["memory"])
    steps = sum(line["last"] - line["first"] for line in lines)

    def added(key: str, rank: int) -> dict[str, float]:
        sums: dict[str, float] = {}
        for line in lines:
            for kind, values in line[key].items():
                sums[kind] = sums.get(kind, 0.0) + values[rank]
        return sums

    return [
        HostShare(
            rank,
            steps,
            added("seconds", rank),
            added("stages", rank),
            max(line["memory"][rank] for line in lines),
            max(line["device_memory"][rank] for line in lines),
        )
        for rank in range(hosts)
    ]


def host_section(run: RunRecord) -> str:
    """Time of every host on its step and in its data pipeline, and memory over steps."""
    shares = host_shares(run)
    if not shares or not shares[0].steps:
        return element("p", "No host has reported a lease yet.", class_="soft")
    shown, said = _chosen(shares)
    nodes = {
        event["rank"]: event["node"]
        for event in run.of("host_started")
        if event["launch"] == run.hosts[-1]["launch"]
    }
    stages = [name for name in _PIPELINE if any(share.stages.get(name) for share in shares)]
    colours = {name: f"var(--line-{place})" for place, name in enumerate((*stages,))}
    device = any(share.device_memory for share in shares)
    longest = max(_total(share.seconds) for share in shown)
    busiest = max(share.busy for share in shown) or 1.0
    header = ["host", "node", "its step", "per step", "its data pipeline", "per step", "process"]
    rows = [
        (
            str(share.rank),
            _node(nodes.get(share.rank, "")),
            _parts({kind: share.seconds.get(kind, 0.0) for kind in _STEP}, _STEP, longest),
            duration(_total(share.seconds) / share.steps),
            _parts({name: share.stages.get(name, 0.0) for name in stages}, colours, busiest),
            duration(share.busy / share.steps),
            size(share.memory),
            *([size(share.device_memory)] if device else []),
        )
        for share in shown
    ]
    legend = _legend("its step", _STEP) + _legend("its data pipeline", colours)
    table = data_table([*header, *(["devices, at most"] if device else [])], rows, words=3)
    words = (
        f"Of launch {run.hosts[-1]['launch']}, {shares[0].steps:,} steps. All hosts step together, "
        "so a slow one shows as waiting for data on itself, and as longer training on the others. "
        "The data pipeline runs beside the steps, its stages beside one another: it holds training "
        "up only where its slowest stage takes longer than a step."
    )
    memory = [
        line_chart(LineChart(title, memory_curves(run.hosts, key), words=size, zero=True))
        for key, title in (
            ("memory", "memory of the host processes"),
            ("device_memory", "memory of the devices, most so far"),
        )
    ]
    return (
        element("p", words, class_="soft")
        + legend
        + table
        + element("p", said)
        + element("div", "".join(memory), class_="charts")
    )


def _node(name: str) -> str:
    """A node's name, cut where it is one of Ray's long ones."""
    return element("code", text(name[:12] + ("…" if len(name) > 12 else "")), title=name)


def _chosen(shares: Sequence[HostShare]) -> tuple[Sequence[HostShare], str]:
    """The hosts to show, and what is to be said of all."""
    by_busy = sorted(shares, key=lambda share: -share.busy)
    middle = median(share.busy for share in shares)
    said = ""
    if len(shares) > 1 and middle > 0:
        first = by_busy[0]
        said = (
            f"The pipeline of host {first.rank} was busy longest: {duration(first.busy)}, "
            f"{first.busy / middle:.2f} times the median."
        )
    if len(shares) > _MOST:
        said = f"Shown are the {_MOST} busiest of {len(shares):,} hosts. {said}"
        return by_busy[:_MOST], said
    return shares, said


def _total(seconds: Mapping[str, float]) -> float:
    return sum(seconds.get(kind, 0.0) for kind in _STEP)


def _parts(values: Mapping[str, float], colours: Mapping[str, str], whole: float) -> str:
    """A bar of several parts; one of ``whole`` seconds fills it."""
    parts = "".join(
        element(
            "span",
            "",
            style=f"width:{100 * value / whole:.2f}%;background:{colours[name]}",
            title=f"{name.replace('_', ' ')} {duration(value)}",
        )
        for name, value in values.items()
        if value > 0
    )
    return element("div", parts, class_="parts")


def _legend(title: str, colours: Mapping[str, str]) -> str:
    names = "".join(
        element("span", f'<i style="background:{colour}"></i>{name.replace("_", " ")}')
        for name, colour in colours.items()
    )
    return element("div", element("b", f"{title}:") + names, class_="legend")
