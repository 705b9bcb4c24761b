"""Traces of the profiler: of the steps that were asked for, on the hosts that were asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import pytest

from tests.workers.test_host import data, hosts, run, started, train
from workers import protocol
from workers.host import Host
from workers.phases import Phases
from workers.profiling import Profile, Tracer
from workers.protocol import RunSpec

__all__ = ["data", "hosts", "run"]


def traced_steps(folder: Path) -> list[list[int]]:
    """The steps of each trace of host 0, in order of time."""
    files = sorted((folder / "profile" / "host-0" / "plugins" / "profile").glob("*/*.xplane.pb"))
    return [
        sorted(
            int(dict(event.stats)["step_num"])
            for plane in jax.profiler.ProfileData.from_file(str(file)).planes
            for line in plane.lines
            for event in line.events
            if event.name == "train"
        )
        for file in files
    ]


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")
def test_a_host_traces_the_steps_of_its_profile_over_several_leases(
    run: RunSpec, hosts: list[Host], tmp_path: Path
) -> None:
    host = started(replace(run, profile=Profile(2, 5)), hosts)
    train(host, 0, 3)
    assert traced_steps(tmp_path) == []
    done = train(host, 3, 8)
    assert traced_steps(tmp_path) == [[2, 3, 4]]
    assert done.seconds["profiling"] > 0
    assert "profiling" not in train(host, 8, 9).seconds
    host.execute(protocol.Finish())
    assert traced_steps(tmp_path) == [[2, 3, 4]]


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")
def test_a_trace_ends_with_the_run_and_other_hosts_write_none(tmp_path: Path) -> None:
    step = jax.jit(lambda x: x + 1)
    for rank, profile in ((0, Profile(1, 100, (0, 2))), (1, Profile(1, 100, (0, 2))), (2, None)):
        tracer, value = Tracer(profile, rank, str(tmp_path), Phases()), 0
        for number in range(3):
            value = tracer.run(number, step, value)
        assert value == 3
        tracer.stop()
        tracer.stop()
    assert traced_steps(tmp_path) == [[1, 2]]
    assert [folder.name for folder in (tmp_path / "profile").iterdir()] == ["host-0"]
