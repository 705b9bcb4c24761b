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

import time
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
from orchestrator.hosts.interface import Observation
from orchestrator.hosts.ray_hosts import RayHosts
from orchestrator.slices import (
    Place,
    SliceNodes,
    free_slices,
    intact_slices,
    what_is_missing,
)
from orchestrator.topology import SliceTopology
from workers.prediction_protocol import HostCommand
from workers.protocol import Assignment, RunSpec

__all__ = ["SliceHosts"]

_LOOK_SECONDS = 0.5
"""Time between two looks at the cluster while slices are waited for."""


@dataclass(frozen=True)
class _Reserved:
    """A slice that Ray was asked for."""

    slice: SliceNodes
    group: SlicePlacementGroup
    since: float


class SliceHosts:
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
        self._topology = topology
        self._timeout = cluster.slice_timeout
        self._cpus = cluster.num_cpus_per_host
        self._hosts = RayHosts(
            run, cluster, pulse_interval=pulse_interval, factory=factory, place=self._place
        )
        self._reserved: list[_Reserved] = []
        self._waiting: list[Assignment] = []
        self._given_up: set[str] = set()
        self._look_at = 0.0
        self._missing = ""

    # The interface.

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
        self._waiting = list(assignments)
        self._look_at = 0.0
        for surplus in self._reserved[self._wanted :]:
            self._give_back(surplus)
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
        """See ``HostGroup.room``: hosts of the slices that are whole and free.

        While others are waited for, the slices that are ours already count too.
        """
        ours = [one for one in self._reserved if _is_ours(one)] if self._waiting else []
        return (len(ours) + len(self._free(ray.nodes()))) * self._topology.hosts_per_slice

    def dump_stacks(self, rank: int) -> None:
        """See ``HostGroup.dump_stacks``."""
        self._hosts.dump_stacks(rank)

    def last_words(self, rank: int) -> str:
        """See ``HostGroup.last_words``; where slices did not come, what is missing."""
        return self._missing or self._hosts.last_words(rank)

    def kill_all(self) -> None:
        """See ``HostGroup.kill_all``; slices that are whole stay ours for the next launch."""
        self._hosts.kill_all()
        self._waiting = []
        self._recycle(ray.nodes())
        for one in [one for one in self._reserved if not _is_ours(one)]:
            self._give_back(one)

    def close(self) -> None:
        """See ``HostGroup.close``; all slices are given back."""
        self._hosts.close()
        for one in list(self._reserved):
            self._give_back(one)

    # How it is done.

    @property
    def _wanted(self) -> int:
        return len(self._waiting) // self._topology.hosts_per_slice

    def _advance(self) -> None:
        """Ask for what is missing, give up what does not come, start hosts when all is there."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        nodes = ray.nodes()
        self._recycle(nodes)
        ready = [one for one in self._reserved if _is_ours(one)]
        for one in self._reserved:
            if one not in ready and now - one.since > self._timeout:
                self._given_up.add(one.slice.name)
                self._give_back(one)
        free = self._free(nodes)
        for chosen in free[: self._wanted - len(self._reserved)]:
            self._reserved.append(_Reserved(chosen, self._ask_for(chosen), now))
        self._missing = what_is_missing(nodes, self._topology)
        if len(ready) == self._wanted:
            self._missing = ""
            self._given_up.clear()
            waiting, self._waiting = self._waiting, []
            self._hosts.launch(waiting)
        elif len(self._reserved) == self._wanted:
            names = ", ".join(one.slice.name for one in self._reserved if one not in ready)
            self._missing = f"Ray has not given the slices {names} yet"

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

    def _give_back(self, one: _Reserved) -> None:
        self._reserved.remove(one)
        one.group.shutdown()

    def _place(self, assignment: Assignment) -> Place:
        """Where a host is started: computed afresh at every start."""
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
