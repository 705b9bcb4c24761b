"""Nodes of a cluster of several are lost: the run goes on on what is left, and grows back."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.runs import RayHead, Run
from tests.system.trapped import Trap, set_traps
from tests.system.undisturbed import ARGUMENTS, STEPS

pytestmark = pytest.mark.system


SET = ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_raylet_start_wait_time_s", "PATH")
"""Variables that Ray's processes need otherwise than the tests."""


@pytest.fixture
def nodes() -> Iterator[tuple[object, RayHead, list[object]]]:
    """A head that can hold no host, and three nodes with room for one each."""
    from ray.cluster_utils import Cluster

    before = {name: os.environ.get(name) for name in SET}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # On a busy machine a node may take longer than Ray waits.
    os.environ.update(dict(zip(SET, ("0", "120", path), strict=True)))
    settings = {"object_store_memory": 80 << 20, "include_dashboard": False}
    # A node that is lost is given up after two seconds instead of half a minute.
    health = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "_system_config": health, **settings},
    )
    try:
        added = [cluster.add_node(num_cpus=1, resources={"place": 1}) for _ in range(3)]
        cluster.wait_for_nodes()
        head = RayHead("", {"RAY_ADDRESS": cluster.address})
        yield cluster, head, added
    finally:
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def test_lost_nodes(
    small_data: Path,
    undisturbed: Path,
    nodes: tuple[object, RayHead, list[object]],
    start: Callable[..., Run],
    tmp_path: Path,
) -> None:
    """One has another in its place; for the next there is none, until one comes back."""
    cluster, head, added = nodes
    # Time to take nodes away, and to bring one back, in the middle.
    traps = set_traps(
        tmp_path / "traps.json",
        Trap("training", (1,), step=23, signal="", seconds=60),
        Trap("training", (1,), step=37, signal="", seconds=60),
        Trap("training", (0,), step=47, signal="", seconds=60),
    )
    settings = (
        traps,
        "cluster.resources_per_host={place: 1}",
        "elastic={sizes: [1], shrink_after: 30, grow_after: 1}",
        # A node is missed two seconds after its host: not blame another for it in the meantime.
        "failures.grace=30",
    )
    run = start(f"data={small_data}", *ARGUMENTS, *settings, head=head)

    def lose(number: int) -> str:
        """Take the node of host 1 away when it has come to its trap; returns its id."""
        mark = tmp_path / f"traps.json.{number}-1"
        run.wait_for(lambda _: mark.exists(), seconds=300, what=f"trap {number}")
        host = [event for event in run.events("host_started") if event["rank"] == 1][-1]
        (node,) = [node for node in added if node.node_id == host["node"]]  # type: ignore[attr-defined]
        cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]
        return host["node"]

    lost = [lose(0), lose(1)]
    assert lost[0] != lost[1]
    # The one that is left goes on alone. Then a node comes back.
    run.wait_for(lambda _: (tmp_path / "traps.json.2-0").exists(), seconds=300, what="one host")
    cluster.add_node(num_cpus=1, resources={"place": 1})  # type: ignore[attr-defined]
    run.wait_for(lambda run: run.events("handing_over"), seconds=120, what="room for two")
    (tmp_path / "traps.json.2-go").touch()
    summary = run.finish(seconds=400)
    assert (summary["hosts"], summary["restarts"]) == (2, 2)
    assert [event["cause"] for event in run.events("recovering")] == ["died", "died"]
    (shrunk,) = run.events("shrunk")
    assert shrunk["hosts"] == 1
    (growing,) = run.events("handing_over")
    assert (growing["reason"], growing["hosts"]) == ("room", 2)
    assert [event["hosts"] for event in run.events("launching")] == [2, 2, 2, 1, 2]
    last = [event for event in run.events("host_started") if event["launch"] == 4]
    assert len(last) == 2
    assert not {event["node"] for event in last} & set(lost)

    ours = run.losses()
    theirs = dataclasses.replace(run, folder=undisturbed).losses()
    assert sorted(ours) == list(range(STEPS))
    # As many hosts give the same bits, wherever they are; others the same but for rounding.
    shrunk_at = [event["step"] for event in run.events("restored")][2]
    assert shrunk_at >= 20
    assert [ours[n] for n in range(shrunk_at)] == [theirs[n] for n in range(shrunk_at)]
    np.testing.assert_allclose(
        [ours[n] for n in range(STEPS)], [theirs[n] for n in range(STEPS)], rtol=1e-4
    )
