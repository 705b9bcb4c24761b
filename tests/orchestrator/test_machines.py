"""Where hosts find room, from what Ray tells of its nodes."""

import pytest

from orchestrator.machines import bundles_by_node, hosts_that_fit, node_dealt, what_is_missing


def node(name, alive=True, **resources):
    return {
        "NodeID": name,
        "NodeManagerAddress": f"10.0.0.{name}",
        "Alive": alive,
        "Resources": resources,
    }


@pytest.mark.parametrize(
    ("free", "needs", "together", "apart"),
    [
        ({"1": {"GPU": 8.0, "CPU": 4.0}}, {"GPU": 4.0}, 2, 1),
        ({"1": {"GPU": 8.0, "CPU": 4.0}}, {"GPU": 2.0, "CPU": 2.0}, 2, 1),
        ({"1": {"GPU": 8.0}, "2": {"GPU": 8.0}, "3": {"GPU": 7.0}}, {"GPU": 8.0}, 2, 2),
        ({"1": {"CPU": 8.0}}, {"GPU": 1.0}, 0, 0),
        ({}, {"GPU": 1.0}, 0, 0),
    ],
)
def test_how_many_hosts_there_is_room_for(free, needs, together, apart):
    assert hosts_that_fit(free, needs, apart=False) == together
    assert hosts_that_fit(free, needs, apart=True) == apart


def test_what_is_missing_names_the_nodes_that_could_help():
    nodes = [node("1", GPU=8.0, CPU=9.0), node("2", CPU=9.0), node("3", alive=False, GPU=8.0)]
    free = {"1": {"GPU": 2.0, "CPU": 9.0}, "2": {"CPU": 9.0}, "3": {"GPU": 8.0}}
    said = what_is_missing(nodes, free, {"CPU": 1.0, "GPU": 4.0}, 2, apart=True)
    assert said == (
        "there is room for 0 of 2 hosts with 1 CPU and 4 GPU, on nodes of their own: 10.0.0.1 has "
        "9 of 9 CPU and 2 of 8 GPU free"
    )
    said = what_is_missing(nodes[1:], free, {"CPU": 1.0, "GPU": 4.0}, 2, apart=False)
    assert said.endswith("no node has GPU. Are the machines part of the cluster?")
    many = [node(str(n), CPU=2.0) for n in range(6)]
    said = what_is_missing(many, {}, {"CPU": 2.0}, 2, apart=False)
    assert "10.0.0.3 has 0 of 2 CPU free; and 2 more nodes" in said


def test_hosts_of_one_node_are_neighbours():
    assert bundles_by_node({0: "b", 1: "a", 2: "b", 3: "c", 4: "a"}) == (0, 2, 1, 4, 3)


def test_processes_that_take_nothing_are_dealt_out_over_nodes_with_cpus():
    def dealt(nodes, processes):
        return [node_dealt(nodes, number, processes) for number in range(processes)]

    head, gone = node("h"), node("g", alive=False, CPU=8.0)
    nodes = [node("c", CPU=4.0), head, gone, node("a", CPU=4.0), node("b", CPU=4.0)]
    assert dealt(nodes, 3) == ["a", "b", "c"]
    assert dealt(nodes, 2) == ["a", "b"]
    assert dealt(nodes, 7) == ["a", "a", "a", "b", "b", "c", "c"]
    assert dealt([head, node("b", CPU=4.0)], 2) == ["b", "b"]
    assert dealt([head, node("i")], 2) == ["h", "i"]
    assert dealt([head, gone], 2) == [None, None]
