"""Hosts on machines with GPUs or CPUs: all or none, through one placement group.

    launch            → ask Ray for a bundle for each host
    poll              → are all of them ours? Then start the host processes, rank by rank
    kill_all          → end the processes; give back a group that is not ours yet or lost a node

Ray sets ``CUDA_VISIBLE_DEVICES`` of each process to the GPUs of its bundle. Hosts of one node have
neighbouring ranks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

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
from orchestrator.hosts.interface import Observation
from orchestrator.hosts.ray_hosts import RayHosts
from orchestrator.machines import (
    bundles_by_node,
    hosts_that_fit,
    resources_of_host,
    what_is_missing,
)
from orchestrator.slices import Place
from workers.prediction_protocol import HostCommand
from workers.protocol import Assignment, RunSpec

__all__ = ["GangHosts"]

_LOOK_SECONDS = 0.5
"""Time between two looks at the cluster while room is waited for."""


class GangHosts:
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
        self._needs = resources_of_host(cluster, run.devices_per_host)
        self._strategy = cluster.placement
        self._hosts = RayHosts(
            run, cluster, pulse_interval=pulse_interval, factory=factory, place=self._place
        )
        self._group: PlacementGroup | None = None
        self._bundles: tuple[int, ...] = ()
        self._waiting: list[Assignment] = []
        self._look_at = 0.0
        self._missing = ""

    # The interface.

    def launch(self, assignments: Sequence[Assignment]) -> None:
        """See ``HostGroup.launch``; the processes are started when there is room for all."""
        self._waiting = list(assignments)
        self._look_at = 0.0
        if self._group is not None and len(self._group.bundle_specs) != len(assignments):
            self._give_back()
        self._advance()

    def poll(self, timeout: float) -> list[Observation]:
        """See ``HostGroup.poll``."""
        if self._waiting:
            self._advance()
        if self._waiting:
            time.sleep(min(timeout, _LOOK_SECONDS))
            return []
        return self._hosts.poll(timeout)

    def send(self, command: HostCommand) -> None:
        """See ``HostGroup.send``."""
        self._hosts.send(command)

    def hold(self, lease: int) -> None:
        """See ``HostGroup.hold``."""
        self._hosts.hold(lease)

    def release(self, lease: int, last: int) -> None:
        """See ``HostGroup.release``."""
        self._hosts.release(lease, last)

    def room(self) -> int:
        """See ``HostGroup.room``; where hosts stay apart, on nodes that have none yet."""
        available = available_resources_per_node()
        if self._apart and not self._waiting:
            taken = set(self._nodes().values())
            available = {node: free for node, free in available.items() if node not in taken}
        return hosts_that_fit(available, self._needs, apart=self._apart)

    def dump_stacks(self, rank: int) -> None:
        """See ``HostGroup.dump_stacks``."""
        self._hosts.dump_stacks(rank)

    def last_words(self, rank: int) -> str:
        """See ``HostGroup.last_words``; where there is no room, what is missing."""
        return self._missing or self._hosts.last_words(rank)

    def kill_all(self) -> None:
        """See ``HostGroup.kill_all``; a group that is whole stays ours for the next launch."""
        self._hosts.kill_all()
        self._waiting = []
        if not self._is_ours():
            self._give_back()

    def close(self) -> None:
        """See ``HostGroup.close``; the group is given back."""
        self._hosts.close()
        self._give_back()

    # How it is done.

    @property
    def _apart(self) -> bool:
        return self._strategy == "STRICT_SPREAD"

    def _advance(self) -> None:
        """Ask for room, and start the hosts when all of it is there."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        if self._group is None:
            bundles = [dict(self._needs) for _ in self._waiting]
            self._group = placement_group(bundles, strategy=self._strategy)
        if self._is_ours():
            self._missing = ""
            self._bundles = bundles_by_node(self._nodes())
            waiting, self._waiting = self._waiting, []
            self._hosts.launch(waiting)
            return
        hosts = len(self._waiting)
        looked = (ray.nodes(), available_resources_per_node(), self._needs, hosts)
        self._missing = what_is_missing(*looked, apart=self._apart)

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

    def _give_back(self) -> None:
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
