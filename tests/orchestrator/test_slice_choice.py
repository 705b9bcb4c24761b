"""How hosts on slices choose, wait for, keep and give back slices, on a Ray that is pretended."""

from types import SimpleNamespace

import pytest
from test_slices import slice_of

from orchestrator.config import ClusterConfig
from orchestrator.errors import ClusterError
from orchestrator.hosts import placed_hosts, slice_hosts
from orchestrator.topology import slice_topology
from workers import protocol

TOPOLOGY = slice_topology("v5p-16", slices=2)


class PretendedRay:
    """Nodes, and slice placement groups that are ready when the test says so."""

    def __init__(self):
        self.nodes = []
        self.taken = set()
        self.late = set()
        self.asked = []

    def available(self):
        chips = TOPOLOGY.chips_per_host
        ours = {node for group in self.groups for node in group.nodes}
        return {
            node["NodeID"]: {"TPU": 0.0 if node["NodeID"] in self.taken | ours else chips}
            for node in self.nodes
        }

    @property
    def groups(self):
        return [group for group in self.asked if not group.gone]

    def ask(self, shape, version, **how):
        assert (shape, version, how["strategy"]) == ("2x2x2", "v5p", "STRICT_SPREAD")
        assert how["chips_per_vm"] == 4
        assert how["resources_per_bundle"] == {"TPU": 4.0, "CPU": 0.0}
        selectors = how["bundle_label_selector"]
        (name,) = {selector["ray.io/tpu-slice-name"] for selector in selectors}
        group = SimpleNamespace(
            name=name, nodes=[s["ray.io/node-id"] for s in selectors], gone=False
        )
        group.slice_placement_group = group
        group.shutdown = lambda: setattr(group, "gone", True)
        self.asked.append(group)
        return group

    def state(self, group):
        return {"state": "PENDING" if group.name in self.late else "CREATED"}


class PretendedHosts:
    """Stands in for ``RayHosts``: keeps where every host was started."""

    def __init__(self, run, cluster, *, place, **settings):
        self._place = place
        self.launches = []

    def launch(self, assignments):
        self.launches.append({a.rank: self._place(a) for a in assignments})

    def poll(self, timeout):
        return ["polled"]

    def kill_all(self):
        pass

    def last_words(self, rank):
        return "the host's own"

    close = kill_all


@pytest.fixture
def pretended(monkeypatch):
    world = PretendedRay()
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    world.clock = clock
    monkeypatch.setattr(slice_hosts, "ray", SimpleNamespace(nodes=lambda: world.nodes))
    monkeypatch.setattr(placed_hosts, "time", clock)
    monkeypatch.setattr(slice_hosts, "available_resources_per_node", world.available)
    monkeypatch.setattr(slice_hosts, "slice_placement_group", world.ask)
    monkeypatch.setattr(slice_hosts, "placement_group_table", world.state)
    monkeypatch.setattr(placed_hosts, "RayHosts", PretendedHosts)
    monkeypatch.setattr(
        slice_hosts,
        "PlacementGroupSchedulingStrategy",
        lambda placement_group, placement_group_bundle_index: (
            placement_group.name,
            placement_group_bundle_index,
        ),
    )
    return world


def group_of(slice_timeout=10.0):
    config = ClusterConfig(topology="v5p-16", slices=2, slice_timeout=slice_timeout)
    return slice_hosts.SliceHosts(None, config, TOPOLOGY)


def launch(group, hosts, number=0):
    group.launch([protocol.Assignment(rank, hosts, number) for rank in range(hosts)])


def poll_for(group, world, seconds):
    """Poll for so long on the pretended clock; what was seen."""
    until, seen = world.clock.now + seconds, []
    while world.clock.now < until and not seen:
        seen += group.poll(0.5)
    return seen


def started(group):
    """Where the hosts of the last launch are, by rank."""
    places = group._hosts.launches[-1]
    return [places[rank].options["scheduling_strategy"] for rank in sorted(places)]


def test_every_host_has_its_own_bundle_in_the_order_of_the_interconnect(pretended):
    pretended.nodes = [*slice_of(TOPOLOGY, "b"), *reversed(slice_of(TOPOLOGY, "a"))]
    group = group_of()
    assert group.room() == 4
    launch(group, 4)
    assert poll_for(group, pretended, 2) == ["polled"]
    assert started(group) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert [asked.nodes for asked in pretended.asked] == [
        ["a-node-0", "a-node-1"],
        ["b-node-0", "b-node-1"],
    ]
    places = group._hosts.launches[-1]
    assert {place.options["resources"]["TPU"] for place in places.values()} == {4.0}
    slices = [places[rank].environment["MEGASCALE_SLICE_ID"] for rank in range(4)]
    assert slices == ["0", "0", "1", "1"]
    first = slice_of(TOPOLOGY, "a")[0]["NodeManagerAddress"]
    assert {p.environment["MEGASCALE_COORDINATOR_ADDRESS"] for p in places.values()} == {first}
    assert group.room() == 0
    assert group.last_words(0) == "the host's own"


def test_a_slice_that_never_comes_is_told_of_and_given_back(pretended):
    pretended.nodes = [*slice_of(TOPOLOGY, "a"), *slice_of(TOPOLOGY, "b")[:1]]
    group = group_of()
    launch(group, 4)
    assert poll_for(group, pretended, 100) == []
    assert not group._hosts.launches
    assert group.last_words(2) == (
        "slice b lacks its hosts 1; 1 of 2 slices of v5p-16 have all their hosts"
    )
    group.close()
    assert not pretended.groups


def test_a_slice_that_ray_does_not_give_is_left_for_another(pretended):
    for name in "abc":
        pretended.nodes += slice_of(TOPOLOGY, name)
    pretended.late = {"a"}
    group = group_of(slice_timeout=10.0)
    launch(group, 4)
    assert poll_for(group, pretended, 9) == []
    assert group.last_words(0) == "Ray has not given the slices a yet"
    assert {asked.name for asked in pretended.groups} == {"a", "b"}
    assert poll_for(group, pretended, 5) == ["polled"]
    assert {place[0] for place in started(group)} == {"b", "c"}
    assert {asked.name for asked in pretended.groups} == {"b", "c"}


def test_busy_slices_are_not_asked_for(pretended):
    pretended.nodes = [*slice_of(TOPOLOGY, "a"), *slice_of(TOPOLOGY, "b")]
    pretended.taken = {"a-node-1"}
    group = group_of()
    assert group.room() == 2
    launch(group, 2)
    assert poll_for(group, pretended, 2) == ["polled"]
    assert started(group) == [("b", 0), ("b", 1)]
    # One slice alone needs to find no other.
    assert all(not place.environment for place in group._hosts.launches[-1].values())


def test_whole_slices_stay_and_one_that_lost_a_host_goes(pretended):
    for name in "ab":
        pretended.nodes += slice_of(TOPOLOGY, name)
    group = group_of()
    launch(group, 4)
    assert poll_for(group, pretended, 2) == ["polled"]
    group.kill_all()
    launch(group, 4, 1)
    assert len(group._hosts.launches) == 2, "slices that are ours need no waiting"
    assert len(pretended.asked) == 2, "slices that are whole were asked for again"

    lost = next(node for node in pretended.nodes if node["NodeID"] == "a-node-1")
    lost["Alive"] = False
    group.kill_all()
    assert [asked.name for asked in pretended.groups] == ["b"]
    launch(group, 4, 2)
    assert poll_for(group, pretended, 20) == []
    # The slice is made anew, with other machines; what was slice 1 is slice 0 now.
    pretended.nodes = [n for n in pretended.nodes if n["NodeID"].startswith("b")]
    pretended.nodes += slice_of(TOPOLOGY, "new")
    assert poll_for(group, pretended, 2) == ["polled"]
    assert started(group) == [("b", 0), ("b", 1), ("new", 0), ("new", 1)]


def test_a_launch_on_fewer_slices_gives_the_others_back(pretended):
    for name in "ab":
        pretended.nodes += slice_of(TOPOLOGY, name)
    group = group_of()
    launch(group, 4)
    assert poll_for(group, pretended, 2) == ["polled"]
    group.kill_all()
    launch(group, 2, 1)
    assert started(group) == [("a", 0), ("a", 1)]
    assert [asked.name for asked in pretended.groups] == ["a"]
    assert group.room() == 2


def test_slices_that_did_not_come_are_not_kept_over_a_launch(pretended):
    for name in "ab":
        pretended.nodes += slice_of(TOPOLOGY, name)
    pretended.late = {"b"}
    group = group_of()
    launch(group, 4)
    assert poll_for(group, pretended, 5) == []
    group.kill_all()
    assert [asked.name for asked in pretended.groups] == ["a"]
    assert "slices" in group.last_words(0), "the reason must be told after the hosts are ended"


def test_hosts_come_in_whole_slices(pretended):
    with pytest.raises(ClusterError, match="3 hosts cannot be started on v5p-16, of 2 hosts each"):
        launch(group_of(), 3)
