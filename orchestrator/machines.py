"""Machines with GPUs or CPUs that host processes are placed on: what a host takes, who has room.

They are asked of Ray as slices of TPUs are: all or none, as one placement group, one bundle for
each host. Nothing here touches Ray; ``orchestrator.hosts.gang_hosts`` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config import ClusterConfig

__all__ = [
    "bundles_by_node",
    "hosts_that_fit",
    "node_dealt",
    "resources_of_host",
    "what_is_missing",
]

_MOST_NODES = 4
"""Nodes that a message tells of one by one."""


def resources_of_host(cluster: ClusterConfig, devices: int) -> dict[str, float]:
    """Ray resources of one host process, those of which it takes none left out.

    Args:
        cluster: Says of which kind.
        devices: Devices of a host: GPUs, with ``cluster.accelerator`` gpu.

    Example:
        >>> resources_of_host(ClusterConfig(accelerator="gpu", num_cpus_per_host=16), 8)
        {'CPU': 16.0, 'GPU': 8.0}
    """
    gpus = {"GPU": float(devices)} if cluster.accelerator == "gpu" else {}
    needs = {"CPU": cluster.num_cpus_per_host, **gpus, **cluster.resources_per_host}
    return {name: amount for name, amount in needs.items() if amount > 0}


def node_dealt(nodes: Sequence[Mapping[str, Any]], number: int, processes: int) -> str | None:
    """On which node one of so many processes is started, that take no resources.

    Nodes without CPUs, as heads often have none, are passed over where there are others.
    Neighbours come to the same node.

    Args:
        nodes: As ``ray.nodes()`` lists them.
        number: Which process, from 0.
        processes: How many there are.

    Returns:
        The node's id; None where there is only one, and nothing to choose.

    Example:
        >>> nodes = [{"NodeID": n, "Alive": True, "Resources": {"CPU": 4.0}} for n in "ab"]
        >>> [node_dealt(nodes, number, 4) for number in range(4)]
        ['a', 'a', 'b', 'b']
    """
    alive = [node for node in nodes if node["Alive"]]
    if len(alive) < 2:
        return None
    having = [node for node in alive if node["Resources"].get("CPU")] or alive
    ids = sorted(node["NodeID"] for node in having)
    return ids[number * min(len(ids), processes) // processes]


def hosts_that_fit(
    available: Mapping[str, Mapping[str, float]],
    needs: Mapping[str, float],
    *,
    apart: bool,
) -> int:
    """How many hosts there is room for.

    Args:
        available: What is free on every node, by its id.
        needs: What one host takes.
        apart: Whether every host must have a node of its own.

    Example:
        >>> free = {"a": {"GPU": 8.0}, "b": {"GPU": 2.0}, "c": {}}
        >>> hosts_that_fit(free, {"GPU": 2.0}, apart=False), hosts_that_fit(
        ...     free, {"GPU": 2.0}, apart=True
        ... )
        (5, 2)
    """
    room = [
        int(min(free.get(name, 0.0) / amount for name, amount in needs.items()))
        for free in available.values()
    ]
    return sum(min(hosts, 1) for hosts in room) if apart else sum(room)


def what_is_missing(
    nodes: Sequence[Mapping[str, Any]],
    available: Mapping[str, Mapping[str, float]],
    needs: Mapping[str, float],
    hosts: int,
    *,
    apart: bool,
) -> str:
    """Why hosts are not placed: what they ask for, and what every node that could help has.

    Args:
        nodes: As ``ray.nodes()`` lists them.
        available: What is free on every node, by its id.
        needs: What one host takes.
        hosts: Number of hosts.
        apart: Whether every host must have a node of its own.
    """
    alive = [node for node in nodes if node["Alive"]]
    asked = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
    each = f"{asked}, on nodes of their own" if apart else asked
    room = hosts_that_fit(
        {node["NodeID"]: available.get(node["NodeID"], {}) for node in alive}, needs, apart=apart
    )
    told = f"there is room for {room} of {hosts} hosts with {each}"
    scarce = [name for name in needs if name != "CPU"] or ["CPU"]
    having = [node for node in alive if all(node["Resources"].get(name) for name in scarce)]
    if not having:
        return f"{told}: no node has {' and '.join(scarce)}. Are the machines part of the cluster?"
    shown = "; ".join(_described(node, available, needs) for node in having[:_MOST_NODES])
    more = f"; and {len(having) - _MOST_NODES} more nodes" if len(having) > _MOST_NODES else ""
    return f"{told}: {shown}{more}"


def bundles_by_node(nodes: Mapping[int, str]) -> tuple[int, ...]:
    """The bundle of every rank, so that hosts of one node have neighbouring ranks.

    Args:
        nodes: Node of every bundle.
    """
    first: dict[str, int] = {}
    for bundle in sorted(nodes):
        first.setdefault(nodes[bundle], bundle)
    return tuple(sorted(nodes, key=lambda bundle: (first[nodes[bundle]], bundle)))


def _described(
    node: Mapping[str, Any],
    available: Mapping[str, Mapping[str, float]],
    needs: Mapping[str, float],
) -> str:
    free = available.get(node["NodeID"], {})
    has = node["Resources"]
    parts = [f"{free.get(name, 0.0):g} of {has.get(name, 0.0):g} {name}" for name in needs]
    return f"{node['NodeManagerAddress']} has {' and '.join(parts)} free"
