"""Which TPU slices a Ray cluster has, and what a host process on one of them is told.

Ray gives every host of a slice labels (see ``SliceTopology.ray_labels``): the slice's name, and the
host's number in the order of the interconnect. A slice can be used when all its hosts are there.
Nothing here touches Ray; ``orchestrator.hosts.slice_hosts`` does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.topology import SliceTopology

__all__ = [
    "MEGASCALE",
    "Place",
    "SliceNodes",
    "free_slices",
    "intact_slices",
    "set_environment",
    "what_is_missing",
]

MEGASCALE = "MEGASCALE_"
"""Begin of the environment variables by which slices find each other. Ones that are left from an
earlier start name slices and addresses that are gone, and a process that reads them hangs."""

_NAME, _WORKER, _POD = "ray.io/tpu-slice-name", "ray.io/tpu-worker-id", "ray.io/tpu-pod-type"


@dataclass(frozen=True)
class SliceNodes:
    """The Ray nodes of a slice, in the order of the interconnect."""

    name: str
    """The slice's own name; of a slice of one host, its node."""
    nodes: tuple[str, ...]
    """Node ids."""
    addresses: tuple[str, ...]
    """IP addresses."""


@dataclass(frozen=True)
class Place:
    """Where one host process is started, and with what."""

    options: Mapping[str, Any]
    """Options of its Ray actor."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables it must have before it imports JAX."""


def intact_slices(
    nodes: Sequence[Mapping[str, Any]], topology: SliceTopology
) -> tuple[SliceNodes, ...]:
    """The slices of a kind that have all their hosts, by name.

    Args:
        nodes: As ``ray.nodes()`` lists them.
        topology: The kind.
    """
    slices = []
    for name, members in sorted(_by_slice(nodes, topology).items()):
        workers = [_worker(node) for node in members]
        if topology.hosts_per_slice > 1 and sorted(workers) != list(
            range(topology.hosts_per_slice)
        ):
            continue
        ordered = [node for _, node in sorted(zip(workers, members, strict=True), key=_first)]
        ids = tuple(node["NodeID"] for node in ordered)
        slices.append(SliceNodes(name, ids, tuple(node["NodeManagerAddress"] for node in ordered)))
    return tuple(slices)


def free_slices(
    slices: Sequence[SliceNodes],
    available: Mapping[str, Mapping[str, float]],
    topology: SliceTopology,
    last: Collection[str] = (),
) -> tuple[SliceNodes, ...]:
    """The slices none of whose chips are taken.

    Args:
        slices: That have all their hosts.
        available: What is free on every node, by its id; a node that is not named has not told yet.
        topology: Their kind.
        last: Names of slices to put at the end.
    """
    chips = float(topology.chips_per_host)
    free = [
        one
        for one in slices
        if all(available.get(node, {"TPU": chips}).get("TPU", 0.0) >= chips for node in one.nodes)
    ]
    return tuple(sorted(free, key=lambda one: one.name in last))


def what_is_missing(nodes: Sequence[Mapping[str, Any]], topology: SliceTopology) -> str:
    """Why there are not enough slices of a kind: what the cluster has instead."""
    parts = _by_slice(nodes, topology)
    if not parts:
        pods = [_labels(node).get(_POD) for node in nodes if node["Alive"]]
        kinds = Counter(pod for pod in pods if pod)
        there = ", ".join(f"{count} of {pod}" for pod, count in sorted(kinds.items())) or "none"
        return (
            f"no node has the label {_POD}={topology.pod_type}; nodes with TPUs are: {there}. Are "
            "the hosts of the slice part of the Ray cluster?"
        )
    told = []
    for name, members in sorted(parts.items()):
        numbers = {_worker(node) for node in members}
        missing = [n for n in range(topology.hosts_per_slice) if n not in numbers]
        if topology.hosts_per_slice > 1 and missing:
            lacking = ", ".join(str(number) for number in missing)
            told.append(f"slice {name} lacks its hosts {lacking}")
    intact = len(intact_slices(nodes, topology))
    told.append(f"{intact} of {topology.slices} slices of {topology.name} have all their hosts")
    return "; ".join(told)


def set_environment(values: Mapping[str, str]) -> None:
    """Set this process's environment variables; those of an earlier start's slices go."""
    for name in [name for name in os.environ if name.startswith(MEGASCALE)]:
        del os.environ[name]
    os.environ.update(values)


def _by_slice(
    nodes: Sequence[Mapping[str, Any]], topology: SliceTopology
) -> dict[str, list[Mapping[str, Any]]]:
    """Nodes of a kind of slice, by the slice's name; a slice of one host may have none."""
    slices: dict[str, list[Mapping[str, Any]]] = {}
    for node in nodes:
        labels = _labels(node)
        if not node["Alive"] or labels.get(_POD) != topology.pod_type:
            continue
        if node.get("Resources", {}).get("TPU", 0.0) < topology.chips_per_host:
            continue
        name = node["NodeID"] if topology.hosts_per_slice == 1 else labels.get(_NAME)
        if name:
            slices.setdefault(name, []).append(node)
    return slices


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    return node.get("Labels") or {}


def _worker(node: Mapping[str, Any]) -> int:
    """A host's number in its slice; -1 if it has none."""
    number = _labels(node).get(_WORKER, "")
    return int(number) if number.isdecimal() else -1


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]
