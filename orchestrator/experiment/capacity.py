"""How many trials the cluster has room for at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.config import ClusterConfig, RunConfig

__all__ = ["demand_of", "has_room", "local_cluster_for"]


def demand_of(config: RunConfig) -> dict[str, float]:
    """What a trial takes of the cluster, by Ray's names of resources.

    Hosts on CPUs that ask Ray for nothing count a CPU for each of their devices, so that trials
    side by side do not slow each other down. Where a run may grow, its largest size counts.
    """
    cluster = config.cluster
    hosts = max(config.hosts, *config.elastic.sizes, 1)
    topology = cluster.slice_topology
    if topology is not None:
        slices = -(-hosts // topology.hosts_per_slice)
        chips = float(hosts * topology.chips_per_host)
        return {"TPU": chips, topology.ray_head_resource: float(slices)}
    each = dict(cluster.resources_per_host)
    if cluster.accelerator == "gpu":
        each["GPU"] = float(config.devices_per_host)
    cpus = cluster.num_cpus_per_host
    if not cpus and config.platform == "cpu":
        cpus = float(config.devices_per_host)
    if cpus:
        each["CPU"] = each.get("CPU", 0.0) + cpus
    return {name: amount * hosts for name, amount in each.items()}


def has_room(
    demand: Mapping[str, float],
    running: Iterable[Mapping[str, float]],
    capacity: Mapping[str, float],
    most: int | None = None,
) -> bool:
    """Whether one more trial can start.

    A trial that needs more than all there is runs alone: its run says itself what it lacks, or
    waits for a cluster that grows.

    Args:
        demand: What it takes.
        running: What the running trials take.
        capacity: What the cluster has.
        most: Most trials at a time; None sets no bound but the cluster's.
    """
    running = list(running)
    if not running:
        return True
    if most is not None and len(running) >= most:
        return False
    return all(
        amount + sum(other.get(name, 0.0) for other in running) <= capacity.get(name, 0.0) + 1e-9
        for name, amount in demand.items()
    )


def local_cluster_for(configs: Sequence[RunConfig], cpus: int) -> ClusterConfig:
    """A local cluster that declares, as of one host, all CPUs and what the largest trial asks for.

    Args:
        configs: The trials' configurations; all but the resources is as in the first.
        cpus: CPUs of this machine.
    """
    most_cpus, largest = float(cpus), dict[str, float]()
    for config in configs:
        hosts = max(config.hosts, *config.elastic.sizes, 1)
        most_cpus = max(most_cpus, hosts * config.cluster.num_cpus_per_host)
        for name, amount in config.cluster.resources_per_host.items():
            largest[name] = max(largest.get(name, 0.0), hosts * amount)
    changed = {"num_cpus_per_host": most_cpus, "resources_per_host": largest, "spares": 0}
    return configs[0].cluster.model_copy(update=changed)
