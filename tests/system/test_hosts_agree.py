"""The same run on one, two and four hosts: same rows in every batch, same losses, also where a run
goes on with another number of hosts than it began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import RayHead, Run

pytestmark = pytest.mark.system

STEPS = 30
LONGER = 45


def batches(run: Run, hosts: int) -> list[list[int]]:
    """Row ids of every global batch, from what the hosts recorded."""
    shares = [
        [json.loads(line) for line in (run.folder / "rows" / f"host-{rank}.jsonl").open()]
        for rank in range(hosts)
    ]
    for share in shares:
        assert [line["step"] for line in share] == list(range(STEPS))
    return [[row for share in shares for row in share[step]["rows"]] for step in range(STEPS)]


def test_one_two_and_four_hosts(
    small_flights: Path, ray_head: RayHead, start: Callable[..., Run]
) -> None:
    def begin(folder: str, hosts: int, steps: int, *more: str) -> Run:
        settings = ("batch_size=1024", "epochs=3", "record_rows=true", "seed=5")
        changing = (f"data={small_flights}", f"hosts={hosts}", f"max_steps={steps}", *more)
        return start(*settings, *changing, name=folder, head=ray_head)

    runs = {hosts: begin(f"hosts-{hosts}", hosts, STEPS) for hosts in (1, 2, 4)}
    for hosts, run in runs.items():
        summary = run.finish()
        assert (summary["hosts"], summary["devices"]) == (hosts, 2 * hosts)
    assert len(set(map(tuple, batches(runs[1], 1)))) == STEPS
    losses = runs[1].losses()
    assert sorted(losses) == list(range(STEPS))
    for hosts in (2, 4):
        assert batches(runs[hosts], hosts) == batches(runs[1], 1)
        assert runs[hosts].losses() == pytest.approx(losses, rel=1e-5)

    undisturbed = begin("hosts-1", 1, LONGER, "--resume")
    grown = begin("hosts-2", 4, LONGER, "--resume")
    for run in (undisturbed, grown):
        assert run.finish()["steps"] == LONGER
    assert sorted(grown.losses()) == list(range(LONGER))
    assert grown.losses() == pytest.approx(undisturbed.losses(), rel=1e-5)
