"""Hosts on TPU slices: one process on every host of a slice, all or none.

Slices are set aside through Ray's slice placement groups, every host process in its own bundle:

    launch            → choose slices all of whose hosts are there and free, ask Ray for them
    poll              → are they ours? not within ``slice_timeout``: choose others.
                        all are: start the host processes, rank by rank
    kill_all          → end the processes; give back slices that are not ours yet or lost a host

Rank ``r`` is host ``r mod h`` of slice ``r div h``, where a slice has ``h`` hosts: this is how TPUs
count, too. Ray itself could choose the slices, but its way waits in the caller, and asks a process
on every slice for its name; the labels tell that at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from ray.util.tpu import (
    SlicePlacementGroup,
    get_tpu_coordinator_env_vars,
    slice_placement_group,
)

from orchestrator.config import ClusterConfig
from orchestrator.errors import ClusterError
from orchestrator.hosts.placed_hosts import PlacedHosts
from orchestrator.slices import (
    Place,
    SliceNodes,
    free_slices,
    intact_slices,
    what_is_missing,
)
from orchestrator.topology import SliceTopology
from workers.protocol import Assignment, RunSpec

__all__ = ["SliceHosts"]


@dataclass(frozen=True)
class _Reserved:
    """A slice that Ray was asked for."""

    slice: SliceNodes
    group: SlicePlacementGroup
    since: float


class SliceHosts(PlacedHosts):
    """A ``HostGroup`` on TPU slices.

    Args:
        run: What every host is told.
        cluster: Says which slices.
        topology: What they are made of.
        pulse_interval: Seconds between pulses.
        factory: See ``RayHosts``.
    """

    def __init__(
        self,
        run: RunSpec,
        cluster: ClusterConfig,
        topology: SliceTopology,
        *,
        pulse_interval: float = 1.0,
        factory: str = "workers.host:Host",
    ) -> None:
        super().__init__(run, cluster, pulse_interval, factory)
        self._topology = topology
        self._timeout = cluster.slice_timeout
        self._cpus = cluster.num_cpus_per_host
        self._reserved: list[_Reserved] = []
        self._given_up: set[str] = set()

    def launch(self, assignments: Sequence[Assignment]) -> None:
        """See ``HostGroup.launch``; the processes are started when all slices are ours.

        Raises:
            ClusterError: So many hosts are not a number of whole slices.
        """
        if len(assignments) % self._topology.hosts_per_slice:
            raise ClusterError(
                f"{len(assignments)} hosts cannot be started on {self._topology.name}, of "
                f"{self._topology.hosts_per_slice} hosts each: ask for whole slices"
            )
        super().launch(assignments)

    def room(self) -> int:
        """See ``HostGroup.room``: hosts of the slices that are whole and free.

        While others are waited for, the slices that are ours already count too.
        """
        ours = [one for one in self._reserved if _is_ours(one)] if self._waiting else []
        return (len(ours) + len(self._free(ray.nodes()))) * self._topology.hosts_per_slice

    @property
    def _wanted(self) -> int:
        return len(self._waiting) // self._topology.hosts_per_slice

    def _find_room(self, now: float) -> str:
        """Ask for what is missing, and give up what does not come."""
        nodes = ray.nodes()
        self._recycle(nodes)
        ready = [one for one in self._reserved if _is_ours(one)]
        for one in self._reserved.copy():
            if one not in ready and now - one.since > self._timeout:
                self._given_up.add(one.slice.name)
                self._give_back(one)
        free = self._free(nodes)
        for chosen in free[: self._wanted - len(self._reserved)]:
            self._reserved.append(_Reserved(chosen, self._ask_for(chosen), now))
        if len(ready) == self._wanted:
            self._given_up.clear()
            return ""
        if len(self._reserved) == self._wanted:
            names = ", ".join(one.slice.name for one in self._reserved if one not in ready)
            return f"Ray has not given the slices {names} yet"
        return what_is_missing(nodes, self._topology)

    def _free(self, nodes: list[dict[str, Any]]) -> tuple[SliceNodes, ...]:
        """Whole slices with all chips free, besides our own; those that did not come, last."""
        ours = {one.slice.name for one in self._reserved}
        slices = [one for one in intact_slices(nodes, self._topology) if one.name not in ours]
        return free_slices(slices, available_resources_per_node(), self._topology, self._given_up)

    def _ask_for(self, chosen: SliceNodes) -> SlicePlacementGroup:
        """Ask Ray for a slice: bundle ``i`` on the slice's host ``i``. Does not wait."""
        return slice_placement_group(
            self._topology.shape,
            self._topology.generation.ray,
            resources_per_bundle={**self._topology.ray_resources, "CPU": self._cpus},
            chips_per_vm=self._topology.chips_per_host,
            strategy="STRICT_SPREAD",
            # Naming the slice keeps Ray from choosing one, and waiting for it, itself.
            bundle_label_selector=[
                {"ray.io/node-id": node}
                | ({} if len(chosen.nodes) == 1 else {"ray.io/tpu-slice-name": chosen.name})
                for node in chosen.nodes
            ],
        )

    def _recycle(self, nodes: list[dict[str, Any]]) -> None:
        """Give back slices that lost a host, or whose hosts are others now."""
        whole = intact_slices(nodes, self._topology)
        for one in [one for one in self._reserved if one.slice not in whole]:
            self._give_back(one)

    def _return_surplus(self) -> None:
        for surplus in self._reserved[self._wanted :]:
            self._give_back(surplus)

    def _return_broken(self) -> None:
        self._recycle(ray.nodes())
        for one in [one for one in self._reserved if not _is_ours(one)]:
            self._give_back(one)

    def _return_all(self) -> None:
        for one in list(self._reserved):
            self._give_back(one)

    def _give_back(self, one: _Reserved) -> None:
        self._reserved.remove(one)
        one.group.shutdown()

    def _place(self, assignment: Assignment) -> Place:
        number, host = divmod(assignment.rank, self._topology.hosts_per_slice)
        reserved = self._reserved[number]
        environment: dict[str, str] = {}
        if len(self._reserved) > 1:
            first = self._reserved[0].slice.addresses[0]
            environment = get_tpu_coordinator_env_vars(first, len(self._reserved), number)
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=_bundles(reserved),
            placement_group_bundle_index=host,
        )
        resources = self._topology.ray_resources
        return Place({"resources": resources, "scheduling_strategy": strategy}, environment)


def _is_ours(one: _Reserved) -> bool:
    """Whether Ray has set the slice aside; it answers at once."""
    return placement_group_table(_bundles(one))["state"] == "CREATED"


def _bundles(one: _Reserved) -> PlacementGroup:
    group = one.group.slice_placement_group
    assert group is not None, "a slice was used after it was given back"
    return group
