"""Hosts on TPU slices and GPUs that a real Ray cluster is made to believe in."""

import functools
import inspect
import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.config import ClusterConfig
from orchestrator.errors import ClusterError
from orchestrator.hosts.interface import Answered, Died, StacksSeen
from orchestrator.ray_session import RaySession
from orchestrator.topology import slice_topology
from tests.runs import free_ports
from workers import protocol

pytestmark = pytest.mark.system


PATIENCE = {
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 8,
}
"""A node that is dead is seen to be in 8 s; one that is slow, as ours are, has 80 s to answer."""


@contextmanager
def light_nodes():
    """Nodes whose agents do without what dashboards need, and that do not wait for them.

    Else a node starts several large Python processes, and gives up if these take 15 s to tell their
    ports: on a busy machine, few of many nodes would come up.
    """
    from ray import _raylet
    from ray._private import services, utils

    names = ("METRICS_AGENT_PORT", "METRICS_EXPORT_PORT", "DASHBOARD_AGENT_LISTEN_PORT")
    dependencies, start_raylet = utils.get_dashboard_dependency_error, services.start_raylet

    def start(*arguments, **options):
        given = inspect.signature(start_raylet).bind(*arguments, **options).arguments
        for name in names:  # as such agents do themselves, later
            port = getattr(_raylet, f"{name}_NAME")
            _raylet.persist_port(given["session_dir"], given["node_id"], port, -1)
        return start_raylet(*arguments, **options)

    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted")
    services.start_raylet = start
    try:
        yield
    finally:
        utils.get_dashboard_dependency_error = dependencies
        services.start_raylet = start_raylet


class FakeCluster:
    """Ray nodes with the resources and labels of TPU hosts."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        (port,) = free_ports(1)
        head = {"num_cpus": 1, "runtime_env_agent_port": port, "_system_config": PATIENCE}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._slices = {}

    @property
    def address(self):
        return self._cluster.address

    def add(self, topology, name):
        """A slice; its first host tells Ray that it is, as Ray does itself on real ones."""
        for worker in range(topology.hosts_per_slice):
            head = {topology.ray_head_resource: 1} if worker == 0 else {}
            node = self._cluster.add_node(
                wait=False,
                num_cpus=1,
                object_store_memory=80 * 2**20,
                resources={**topology.ray_resources, name: 1, **head},
                labels=topology.ray_labels(name, worker),
                runtime_env_agent_port=free_ports(1)[0],
            )
            self._slices.setdefault(name, []).append(node)
        self._cluster.wait_for_nodes(120)

    def add_machine(self, **resources):
        """A machine with GPUs or CPUs."""
        (port,) = free_ports(1)
        options = {"object_store_memory": 80 * 2**20, "runtime_env_agent_port": port}
        node = self._cluster.add_node(wait=False, **resources, **options)
        self._cluster.wait_for_nodes(120)
        return node

    def remove_machine(self, node):
        self._cluster.remove_node(node, allow_graceful=False)

    def remove_host(self, name, worker):
        self._cluster.remove_node(self._slices[name].pop(worker), allow_graceful=False)

    def remove(self, name):
        for node in self._slices.pop(name):
            self._cluster.remove_node(node, allow_graceful=False)

    def worker_of(self, node_id):
        """(slice, worker) of a node."""
        import ray

        (node,) = [node for node in ray.nodes() if node["NodeID"] == node_id]
        labels = node["Labels"]
        return labels["ray.io/tpu-slice-name"], int(labels["ray.io/tpu-worker-id"])

    def shutdown(self):
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster():
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    # As a node may have them that was part of other slices before.
    os.environ |= {"MEGASCALE_NUM_SLICES": "7", "MEGASCALE_COORDINATOR_ADDRESS": "10.9.9.9"}
    try:
        with light_nodes():
            fake = FakeCluster()
            try:
                with RaySession(ClusterConfig(address=fake.address), hosts=1):
                    yield fake
            finally:
                fake.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def groups(cluster, tmp_path):
    from orchestrator.hosts.gang_hosts import GangHosts
    from orchestrator.hosts.slice_hosts import SliceHosts

    made = []
    options = {"pulse_interval": 0.2, "factory": "fake_slice_host:FakeSliceHost"}

    def make(topology, **settings):
        cores, devices = topology.sparsecores_per_device, topology.devices_per_host
        run = a_run(tmp_path / str(len(made)), devices, "tpu", cores)
        config = ClusterConfig(topology=topology.name, slices=topology.slices, **settings)
        made.append(SliceHosts(run, config, topology, **options))
        return made[-1]

    def make_gang(devices, **settings):
        config = ClusterConfig(**settings)
        run = a_run(tmp_path / str(len(made)), devices, config.accelerator)
        made.append(GangHosts(run, config, **options))
        return made[-1]

    make.gang = make_gang

    yield make
    for group in made:
        group.close()


def a_run(folder, devices, platform, sparsecores=1):
    named = {"program": "none:none", "parameters": {}, "data": "none", "run_folder": str(folder)}
    sizes = {"batch_size": 64, "epochs": 1, "seed": 0, "devices_per_host": devices}
    kind = {"platform": platform, "sparsecores_per_device": sparsecores}
    return protocol.RunSpec(**named, **sizes, **kind)


def start(group, hosts, launch=0):
    group.launch([protocol.Assignment(rank, hosts, launch) for rank in range(hosts)])


def hellos(group, hosts, tries=4):
    """What hosts say that were started; started anew, as a controller does, if some do not come.

    On a busy machine it happens that a node takes an actor and its worker never registers.
    """
    for number in range(1, tries):
        try:
            return answers(group, hosts)
        except AssertionError:
            group.kill_all()
            start(group, hosts, launch=100 + number)
    return answers(group, hosts)


def answers(group, hosts):
    seen = collect(group, lambda seen: len(of(seen, Answered)) == hosts)
    return {answer.rank: answer.reply for answer in of(seen, Answered)}


def collect(group, enough, seconds=60.0):
    seen, deadline = [], time.monotonic() + seconds
    while not enough(seen):
        assert time.monotonic() < deadline, f"only {seen}; {group.last_words(0)}; {nodes()}"
        seen += group.poll(0.2)
    return seen


def nodes():
    """Which nodes are there, and what is free on each."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [(node["Alive"], node["Labels"], free.get(node["NodeID"])) for node in ray.nodes()]


def of(seen, kind):
    return [observation for observation in seen if isinstance(observation, kind)]


def have_told(hosts, seen):
    return len(of(seen, StacksSeen)) >= hosts


def environments(group, hosts):
    found, deadline = {}, time.monotonic() + 90
    while len(found) < hosts:
        assert time.monotonic() < deadline, f"only hosts {sorted(found)} answer"
        missing = [rank for rank in range(hosts) if rank not in found]
        for rank in missing:
            group.dump_stacks(rank)
        seen = collect(group, functools.partial(have_told, len(missing)))
        # One that is too slow to answer is read from outside, which is not what is asked here.
        told = [stacks for stacks in of(seen, StacksSeen) if stacks.text.startswith("{")]
        found |= {stacks.rank: json.loads(stacks.text) for stacks in told}
    return found


def places(cluster, told):
    return [cluster.worker_of(told[rank].node) for rank in sorted(told)]


def test_one_slice_of_four_hosts(cluster, groups):
    topology = slice_topology("v6e-16")
    cluster.add(topology, "whole")
    group = groups(topology)
    assert group.room() == 4
    start(group, 4)
    told = hellos(group, 4)
    assert not group.awaits_room()
    # One process a host, ranks in the order of the interconnect.
    assert places(cluster, told) == [("whole", worker) for worker in range(4)]
    assert group.room() == 0
    # One slice has nothing to do with others; what was left of earlier ones is gone.
    assert set(environments(group, 4)[2]) == {"JAX_PLATFORMS"}

    # A busy slice is waited for, with what is missing told, and taken when it becomes free.
    other = groups(topology)
    start(other, 4)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert other.poll(0.2) == []
    assert other.awaits_room()
    assert "1 of 1 slices of v6e-16 have all their hosts" in other.last_words(0)
    group.close()
    assert places(cluster, hellos(other, 4)) == [("whole", worker) for worker in range(4)]
    other.close()
    with pytest.raises(ClusterError, match="6 hosts cannot be started on v6e-16, of 4 hosts each"):
        start(groups(topology), 6)
    cluster.remove("whole")


def test_two_slices_and_a_node_that_dies(cluster, groups):
    topology = slice_topology("v5p-16", slices=2)
    for name in ("first", "second", "third"):
        cluster.add(topology, name)
    group = groups(topology)
    start(group, 4)
    told = hellos(group, 4)
    assert places(cluster, told) == [("first", 0), ("first", 1), ("second", 0), ("second", 1)]
    for rank, found in environments(group, 4).items():
        assert found.pop("MEGASCALE_COORDINATOR_ADDRESS") == told[0].address.split(":")[0]
        assert found.pop("MEGASCALE_PORT")
        assert found == {
            "MEGASCALE_NUM_SLICES": "2",
            "MEGASCALE_SLICE_ID": str(rank // 2),
            "JAX_PLATFORMS": "tpu,cpu",
        }

    # A process that dies leaves its slice whole: it is used again.
    os.kill(told[3].pid, signal.SIGKILL)
    died = of(collect(group, lambda seen: of(seen, Died)), Died)
    assert [death.rank for death in died] == [3]
    group.kill_all()
    start(group, 4, launch=1)
    again = hellos(group, 4)
    assert places(cluster, again) == places(cluster, told)
    assert not {hello.pid for hello in again.values()} & {hello.pid for hello in told.values()}

    # A node that dies takes its slice with it: another one comes in, the healthy one stays.
    cluster.remove_host("first", 1)
    died = of(collect(group, lambda seen: of(seen, Died)), Died)
    assert 1 in {death.rank for death in died}
    group.kill_all()
    start(group, 4, launch=2)
    last = hellos(group, 4)
    assert sorted(places(cluster, last)) == [
        ("second", 0),
        ("second", 1),
        ("third", 0),
        ("third", 1),
    ]
    assert [worker for _, worker in places(cluster, last)] == [0, 1, 0, 1]
    slices = [found["MEGASCALE_SLICE_ID"] for _, found in sorted(environments(group, 4).items())]
    assert slices == ["0", "0", "1", "1"]

    # With one slice lost and none to take its place, half of the hosts go on.
    cluster.remove_host("third", 0)
    collect(group, lambda seen: of(seen, Died))
    group.kill_all()
    start(group, 4, launch=3)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert group.poll(0.2) == []
    assert "slice third lacks its hosts 0" in group.last_words(0)
    assert group.room() == 2  # the slice that is ours, by which the driver goes on with fewer
    group.kill_all()
    start(group, 2, launch=4)
    assert places(cluster, hellos(group, 2)) == [("second", 0), ("second", 1)]
    assert "MEGASCALE_NUM_SLICES" not in environments(group, 2)[0]


def test_a_slice_that_never_comes_and_one_that_comes_late(cluster, groups):
    topology = slice_topology("v6e-8", slices=2)
    group = groups(topology, slice_timeout=2.0)
    start(group, 2)
    assert group.poll(0.1) == []
    assert "no node has the label ray.io/tpu-pod-type=v6e-8" in group.last_words(0)
    cluster.add(topology, "early")
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        assert group.poll(0.2) == []
    assert "1 of 2 slices of v6e-8" in group.last_words(1)
    # Given up, nothing is held that others could use.
    group.close()
    deadline = time.monotonic() + 30
    while group.room() != 1:  # Ray frees it a moment later
        assert time.monotonic() < deadline
        time.sleep(0.1)
    group = groups(topology, slice_timeout=2.0)
    start(group, 2)
    cluster.add(topology, "late")
    assert sorted(places(cluster, hellos(group, 2))) == [("early", 0), ("late", 0)]
    assert {found["MEGASCALE_SLICE_ID"] for found in environments(group, 2).values()} == {"0", "1"}


def test_machines_with_gpus(cluster, groups):
    """All or none on machines that say they have GPUs, which Ray tells each process."""
    first = cluster.add_machine(num_cpus=2, num_gpus=2)
    apart = {"accelerator": "gpu", "num_cpus_per_host": 1.0, "placement": "STRICT_SPREAD"}
    group = groups.gang(2, **apart)
    assert group.room() == 1
    start(group, 2)
    assert group.poll(0.1) == []  # there is room for one, so none is started
    assert "room for 1 of 2 hosts with 1 CPU and 2 GPU, on nodes of" in group.last_words(0)
    assert "has 2 of 2 CPU and 2 of 2 GPU free" in group.last_words(1)

    second = cluster.add_machine(num_cpus=2, num_gpus=2)
    told = hellos(group, 2)
    assert {hello.node for hello in told.values()} == {first.node_id, second.node_id}
    for found in environments(group, 2).values():
        assert (found["JAX_PLATFORMS"], found["CUDA_VISIBLE_DEVICES"]) == ("cuda,cpu", "0,1")
    assert group.room() == 0

    # A process that dies is started again at the same place; a machine that dies is not waited for.
    os.kill(told[1].pid, signal.SIGKILL)
    collect(group, lambda seen: of(seen, Died))
    group.kill_all()
    start(group, 2, launch=1)
    again = hellos(group, 2)
    assert [again[rank].node for rank in (0, 1)] == [told[rank].node for rank in (0, 1)]
    cluster.remove_machine(second)
    collect(group, lambda seen: of(seen, Died))
    group.kill_all()
    start(group, 2, launch=2)
    deadline = time.monotonic() + 60
    while "room for 1 of 2 hosts" not in group.last_words(0):
        assert time.monotonic() < deadline, group.last_words(0)
        assert group.poll(0.2) == []
    assert group.room() == 1  # by which the driver goes on with fewer
    group.close()

    # Two hosts on one machine, each with a GPU of its own.
    group = groups.gang(1, accelerator="gpu")
    start(group, 2)
    told = hellos(group, 2)
    assert {hello.node for hello in told.values()} == {first.node_id}
    seen = [found["CUDA_VISIBLE_DEVICES"] for _, found in sorted(environments(group, 2).items())]
    assert sorted(seen) == ["0", "1"]
    cluster.remove_machine(first)
