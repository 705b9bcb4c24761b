"""A node of a cluster of several is lost: the run goes on on those that are left."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runs import RayHead, Run
from tests.system.trapped import Trap, set_traps
from tests.system.undisturbed import ARGUMENTS, assert_same_end

pytestmark = pytest.mark.system


@pytest.fixture
def nodes() -> Iterator[tuple[object, RayHead, list[object]]]:
    """A head that can hold no host, and three nodes with room for one each."""
    from ray.cluster_utils import Cluster

    before = {name: os.environ.get(name) for name in ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "PATH")}
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
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


def test_a_lost_node(
    small_data: Path,
    undisturbed: Path,
    nodes: tuple[object, RayHead, list[object]],
    start: Callable[..., Run],
    tmp_path: Path,
) -> None:
    cluster, head, added = nodes
    # Time to take the node away in the middle.
    trap = Trap("training", (1,), step=23, signal="", seconds=20)
    settings = (set_traps(tmp_path / "traps.json", trap), "cluster.resources_per_host={place: 1}")
    run = start(f"data={small_data}", *ARGUMENTS, *settings, head=head)
    run.wait_for(lambda _: (tmp_path / "traps.json.0-1").exists(), seconds=300, what="step 23")
    lost = next(event for event in run.events("host_started") if event["rank"] == 1)
    (node,) = [node for node in added if node.node_id == lost["node"]]  # type: ignore[attr-defined]
    cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]
    summary = run.finish(seconds=400)
    assert summary["restarts"] == 1
    assert summary["hosts"] == 2
    (recovering,) = run.events("recovering")
    assert recovering["cause"] == "died"
    second = [event for event in run.events("host_started") if event["launch"] == 1]
    assert len(second) == 2
    assert lost["node"] not in {event["node"] for event in second}
    assert_same_end(run, undisturbed)
