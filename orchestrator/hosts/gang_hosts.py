"""Hosts on machines with GPUs or CPUs: all or none, through one placement group.

    launch            → ask Ray for a bundle for each host
    poll              → are all of them ours? Then start the host processes, rank by rank
    kill_all          → end the processes; give back a group that is not ours yet or lost a node

Ray sets ``CUDA_VISIBLE_DEVICES`` of each process to the GPUs of its bundle. Hosts of one node have
neighbouring ranks.
"""

from __future__ import annotations

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.config import ClusterConfig
from orchestrator.hosts.placed_hosts import PlacedHosts
from orchestrator.machines import (
    bundles_by_node,
    hosts_that_fit,
    resources_of_host,
    what_is_missing,
)
from orchestrator.slices import Place
from workers.protocol import Assignment, RunSpec

__all__ = ["GangHosts"]


class GangHosts(PlacedHosts):
    """A ``HostGroup`` whose hosts are placed together.

    Args:
        run: What every host is told.
        cluster: Says what a host takes, and how far apart hosts are placed.
        pulse_interval: Seconds between pulses.
        factory: See ``RayHosts``.
    """

    def __init__(
        self,
        run: RunSpec,
        cluster: ClusterConfig,
        *,
        pulse_interval: float = 1.0,
        factory: str = "workers.host:Host",
    ) -> None:
        super().__init__(run, cluster, pulse_interval, factory)
        self._needs = resources_of_host(cluster, run.devices_per_host)
        self._strategy = cluster.placement
        self._group: PlacementGroup | None = None
        self._bundles: tuple[int, ...] = ()

    def room(self) -> int:
        """See ``HostGroup.room``; where hosts stay apart, on nodes that have none yet."""
        available = available_resources_per_node()
        if self._apart and not self._waiting:
            taken = set(self._nodes().values())
            available = {node: free for node, free in available.items() if node not in taken}
        return hosts_that_fit(available, self._needs, apart=self._apart)

    @property
    def _apart(self) -> bool:
        return self._strategy == "STRICT_SPREAD"

    def _find_room(self, now: float) -> str:
        if self._group is None:
            bundles = [dict(self._needs) for _ in self._waiting]
            self._group = placement_group(bundles, strategy=self._strategy)
        if self._is_ours():
            self._bundles = bundles_by_node(self._nodes())
            return ""
        hosts = len(self._waiting)
        looked = (ray.nodes(), available_resources_per_node(), self._needs, hosts)
        return what_is_missing(*looked, apart=self._apart)

    def _is_ours(self) -> bool:
        """Whether Ray has set aside all bundles, on nodes that live; it answers at once."""
        if self._group is None or placement_group_table(self._group)["state"] != "CREATED":
            return False
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return alive.issuperset(self._nodes().values())

    def _nodes(self) -> dict[int, str]:
        """The node of every bundle that has one."""
        if self._group is None:
            return {}
        return placement_group_table(self._group).get("bundles_to_node_id", {})

    def _return_surplus(self) -> None:
        if self._group is not None and len(self._group.bundle_specs) != len(self._waiting):
            self._return_all()

    def _return_broken(self) -> None:
        if not self._is_ours():
            self._return_all()

    def _return_all(self) -> None:
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _place(self, assignment: Assignment) -> Place:
        assert self._group is not None, "hosts are placed before there is room for them"
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=self._group,
            placement_group_bundle_index=self._bundles[assignment.rank],
        )
        return Place({"scheduling_strategy": strategy})
