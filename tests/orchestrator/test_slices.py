"""Which slices a cluster has, told from what Ray lists; see ``test_slice_hosts`` for Ray itself."""

import os

from orchestrator.slices import (
    SliceNodes,
    free_slices,
    intact_slices,
    set_environment,
    what_is_missing,
)
from orchestrator.topology import slice_topology

V6E = slice_topology("v6e-16")


def node(topology, name, worker, *, alive=True, chips=None):
    return {
        "NodeID": f"{name}-node-{worker}",
        "NodeManagerAddress": f"10.0.{len(name)}.{worker}",
        "Alive": alive,
        "Labels": topology.ray_labels(name, worker),
        "Resources": {"TPU": topology.chips_per_host if chips is None else chips, "CPU": 1.0},
    }


def slice_of(topology, name):
    return [node(topology, name, worker) for worker in range(topology.hosts_per_slice)]


HEAD = {"NodeID": "head", "NodeManagerAddress": "10.0.0.1", "Alive": True, "Resources": {"CPU": 8}}


def test_hosts_come_in_the_order_of_the_interconnect():
    shuffled = [node(V6E, "a", worker) for worker in (2, 0, 3, 1)]
    (found,) = intact_slices([HEAD, *shuffled], V6E)
    assert found == SliceNodes(
        "a",
        tuple(f"a-node-{worker}" for worker in range(4)),
        tuple(f"10.0.1.{worker}" for worker in range(4)),
    )


def test_only_whole_slices_of_the_kind_count():
    nodes = [HEAD, *slice_of(V6E, "whole"), *slice_of(slice_topology("v5p-16"), "other")]
    nodes += slice_of(V6E, "lacking")[1:]
    nodes += [*slice_of(V6E, "dead")[:3], node(V6E, "dead", 3, alive=False)]
    nodes += [*slice_of(V6E, "twice")[:3], node(V6E, "twice", 2)]
    nodes += [*slice_of(V6E, "chipless")[:3], node(V6E, "chipless", 3, chips=2)]
    nodes += slice_of(slice_topology("v6e-32"), "larger")
    assert [one.name for one in intact_slices(nodes, V6E)] == ["whole"]


def test_a_slice_of_one_host_is_its_node():
    one_host = slice_topology("v6e-8")
    nodes = [node(one_host, "pool", worker) for worker in (0, 0, 1)]
    nodes[1]["NodeID"] = "second"
    found = intact_slices(nodes, one_host)
    assert {one.nodes for one in found} == {("pool-node-0",), ("pool-node-1",), ("second",)}
    unlabelled = {**nodes[0], "Labels": {"ray.io/tpu-pod-type": "v6e-8"}}
    assert [one.nodes for one in intact_slices([unlabelled], one_host)] == [("pool-node-0",)]


def test_slices_with_a_chip_taken_are_not_free():
    slices = intact_slices([n for name in "abc" for n in slice_of(V6E, name)], V6E)
    available = {node: {"TPU": 4.0} for one in slices for node in one.nodes}
    available["b-node-2"] = {"CPU": 1.0}
    del available["c-node-0"]  # it came a moment ago
    assert [one.name for one in free_slices(slices, available, V6E)] == ["a", "c"]
    assert [one.name for one in free_slices(slices, available, V6E, {"a"})] == ["c", "a"]


def test_what_is_missing_is_told():
    assert what_is_missing([HEAD], V6E) == (
        "no node has the label ray.io/tpu-pod-type=v6e-16; nodes with TPUs are: none. Are the "
        "hosts of the slice part of the Ray cluster?"
    )
    other = slice_of(slice_topology("v5p-16"), "other")
    assert "nodes with TPUs are: 2 of v5p-16" in what_is_missing(other, V6E)
    lacking = [node(V6E, "a", worker) for worker in (0, 3)] + slice_of(V6E, "b")
    assert what_is_missing(lacking, slice_topology("v6e-16", 2)) == (
        "slice a lacks its hosts 1, 2; 1 of 2 slices of v6e-16 have all their hosts"
    )


def test_variables_of_an_earlier_start_go(monkeypatch):
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "10.0.0.9")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "4")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    set_environment({"JAX_PLATFORMS": "tpu,cpu", "MEGASCALE_SLICE_ID": "0"})
    assert os.environ["JAX_PLATFORMS"] == "tpu,cpu"
    assert {name for name in os.environ if name.startswith("MEGASCALE_")} == {"MEGASCALE_SLICE_ID"}
    set_environment({})
    assert not {name for name in os.environ if name.startswith("MEGASCALE_")}
