"""The train step compiled by XLA's TPU compiler, on a machine without TPUs."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workers.aot import COMPILER_ENVIRONMENT, KNOWN_TOPOLOGIES, describe_topology
from workers.errors import ProgramError

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 600
HAS_COMPILER = bool(importlib.util.find_spec("libtpu") or "TPU_LIBRARY_PATH" in os.environ)
needs_compiler = pytest.mark.skipif(
    not HAS_COMPILER and platform.machine() != "x86_64",
    reason="libtpu, which holds the TPU compiler, exists for x86-64 only",
)


IN_PLACE = "v6e:2x2 in-place tags=0"
COPYING = "v6e:2x2 copying tags=0"
NORMS = "v6e:2x2 norms"
TOO_LARGE = "v6e:2x2 in-place users=1600000000 tags=0"
TOPOLOGIES = {topology: f"{topology} in-place" for topology in KNOWN_TOPOLOGIES}


@functools.cache
def all_compiled() -> dict[str, Any]:
    """What came out, by case: one process, as it takes seconds to start the compiler."""
    assert HAS_COMPILER, "libtpu is missing: install the development dependencies"
    cases = [IN_PLACE, COPYING, NORMS, TOO_LARGE, *TOPOLOGIES.values()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.workers.compile_step", *cases],
        cwd=ROOT,
        env=os.environ | dict(COMPILER_ENVIRONMENT),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()[-len(cases) :]]
    return dict(zip(cases, lines, strict=True))


def assert_in_place(step: Any) -> None:
    memory = step["memory"]
    assert step["moved"] == []
    assert step["layouts"] == ["1,0:T(8)L(1024)"], "not the SparseCores' layout"
    assert memory["reused"] >= memory["tables"]
    assert memory["results"] - memory["reused"] < 10_000
    assert memory["temporaries"] < memory["tables"] / 8
    assert memory["arguments"] < 1.01 * memory["tables"], "tables are padded"
    assert memory["total"] > memory["tables"] + memory["temporaries"]


@needs_compiler
@pytest.mark.system
def test_tables_are_updated_in_place() -> None:
    step = all_compiled()[IN_PLACE]
    assert (step["device_kind"], step["devices"], step["sparsecores"]) == ("TPU v6 lite", 4, 8)
    assert len(step["shares"]) == 1
    assert_in_place(step)


@needs_compiler
@pytest.mark.system
@pytest.mark.parametrize("topology", KNOWN_TOPOLOGIES)
def test_tables_are_updated_in_place_on_every_topology(topology: str) -> None:
    step = all_compiled()[TOPOLOGIES[topology]]
    assert len(step["shares"]) == 2
    assert_in_place(step)


@needs_compiler
@pytest.mark.system
def test_a_step_that_copies_tables_is_told() -> None:
    step = all_compiled()[COPYING]
    assert step["moved"]
    assert step["memory"]["reused"] < step["memory"]["tables"]
    with pytest.raises(AssertionError):
        assert_in_place(step)


@needs_compiler
@pytest.mark.system
def test_norms_are_counted_in_the_sparsecores_layout_with_no_copy_of_a_table() -> None:
    step = all_compiled()[NORMS]
    assert step["moved"] == []
    assert step["layouts"] == ["1,0:T(8)L(1024)"], "not the SparseCores' layout"
    assert step["temporaries"] < 32 << 20 < step["tables"] / 8


@needs_compiler
@pytest.mark.system
def test_a_step_that_does_not_fit_is_told() -> None:
    step = all_compiled()[TOO_LARGE]
    assert "SparseCore only supports 16 GiB of HBM per tensor" in step["error"]


def test_the_compiler_is_not_loaded_into_a_process_that_was_not_made_for_it() -> None:
    with pytest.raises(ProgramError, match="needs the environment variable"):
        describe_topology("v6e:2x2")
    assert "libtpu.so" not in Path("/proc/self/maps").read_text()
