"""Where the hosts of a run come from: the one place that chooses their carrier."""

from __future__ import annotations

from contextlib import ExitStack

from orchestrator.config import RunConfig
from orchestrator.hosts.interface import HostGroup
from orchestrator.ray_session import RaySession
from workers.protocol import RunSpec

__all__ = ["open_hosts"]


def open_hosts(
    run: RunSpec, config: RunConfig, stack: ExitStack, factory: str = "workers.host:Host"
) -> HostGroup:
    """Connect to a cluster, or start one, and make a group that can launch the run's hosts.

    Another kind of cluster is one more ``HostGroup`` (see ``orchestrator.hosts.interface``), chosen
    here.

    Args:
        run: What every host is told.
        config: The run's configuration; ``cluster`` says where.
        stack: Closes the group, then the cluster.
        factory: ``module:callable`` that makes a host of a run, an assignment and an address.

    Raises:
        ClusterError: The cluster cannot be reached or started.
    """
    stack.enter_context(RaySession(config.cluster, config.hosts))
    # Importing Ray takes a second, and its settings must be in the environment before.
    from orchestrator.hosts.gang_hosts import GangHosts
    from orchestrator.hosts.ray_hosts import RayHosts
    from orchestrator.hosts.slice_hosts import SliceHosts

    cluster, interval = config.cluster, config.failures.pulse_interval
    topology = cluster.slice_topology
    if topology is not None:
        group = SliceHosts(run, cluster, topology, pulse_interval=interval, factory=factory)
    else:
        kind = GangHosts if cluster.is_gang else RayHosts
        group = kind(run, cluster, pulse_interval=interval, factory=factory)
    stack.callback(group.close)
    return group
