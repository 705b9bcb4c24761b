"""The commands of docs/scale.md: their modules are there, and their small sizes run."""

from __future__ import annotations

import importlib
import pickle
import re
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.light_host import LightHost, lease_done
from orchestrator.hosts.host_actor import HostLike
from workers import protocol

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()


def test_the_page_names_benchmarks_that_are_there() -> None:
    modules = set(re.findall(r"python -m (benchmarks\.\w+)", PAGE))
    assert {"benchmarks.controller", "benchmarks.scale", "benchmarks.ray_actors"} <= modules
    for module in modules:
        assert callable(importlib.import_module(module).main)


@pytest.mark.parametrize("part", scale.PARTS)
def test_a_few_hosts_are_measured(part: str, tmp_path: Path) -> None:
    header, _, *rows = scale.table(part, [2, 3], tmp_path).splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| 2", "| 3"]
    columns = [name.strip() for name in header.strip("|").split("|")]
    assert f"| {' | '.join(columns)} |" in PAGE, "the page has another table"
    assert not list(tmp_path.iterdir())


def test_a_light_host_answers_as_a_host_does() -> None:
    run = protocol.RunSpec("p:p", {}, "data", "folder", 8, 1, 0, 1)
    host: HostLike = LightHost(run, protocol.Assignment(1, 4, 0), "127.0.0.1")  # pyright: ignore
    assert (host.hello().rank, host.pulse().rank) == (1, 1)
    lease = protocol.RunLease(protocol.Lease(0, "plan", 0, 1))
    assert host.execute(lease) == lease_done(1, 4)
    # Most of a report is its counts: the more hosts, the fewer samples each has.
    sizes = [len(pickle.dumps(lease_done(0, hosts))) for hosts in (4, 400, 4000)]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(KeyError):
        host.execute(protocol.Finish())
