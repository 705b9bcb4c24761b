"""Damage to any file of a checkpoint is found, and named, before anything is restored."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import EmbeddingPlan, FeatureSpec
from tests.workers.test_relayout import features, like, plan_of, state_of
from workers import checksums
from workers.checkpoint import About, Checkpoints, committed_steps, read_checkpoint
from workers.checksums import (
    CHECKSUMS,
    join_parts,
    looks_whole,
    verify_files,
    write_checksums,
    write_part,
)
from workers.errors import CheckpointError
from workers.training import TrainState


@pytest.fixture(scope="module")
def specs() -> list[FeatureSpec]:
    return features((60, 20))


@pytest.fixture(scope="module")
def plan(specs: list[FeatureSpec]) -> EmbeddingPlan:
    return plan_of(specs, 2, 1, True)


@pytest.fixture(scope="module")
def state(plan: EmbeddingPlan, specs: list[FeatureSpec]) -> TrainState:
    return state_of(plan, specs, 3)


@pytest.fixture(scope="module")
def saved(plan: EmbeddingPlan, state: TrainState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints = Checkpoints(folder, About(plan, "p"))
    checkpoints.save(3, state)
    checkpoints.close()
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def restore(folder: Path, plan: EmbeddingPlan, state: TrainState) -> TrainState:
    checkpoints = Checkpoints(folder, About(plan, "p"))
    try:
        return checkpoints.restore(3, like(state), lambda: state)
    finally:
        checkpoints.close()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def kinds(folder: Path) -> dict[str, Path]:
    """One file of each kind: by part of the checkpoint and by name, but for random names."""
    files = sorted(file for file in (folder / "3").rglob("*") if file.is_file())
    assert len(files) > 15
    return {
        str(file.relative_to(folder / "3").parent / ("*" if len(file.name) == 32 else file.name)): (
            file
        )
        for file in files
    }


def test_every_file_is_covered(saved: Path) -> None:
    content = json.loads((saved / "3" / CHECKSUMS).read_text())
    files = {p.relative_to(saved / "3").as_posix() for p in (saved / "3").rglob("*") if p.is_file()}
    assert set(content["files"]) == files - {CHECKSUMS}
    assert looks_whole(saved / "3")


@pytest.mark.parametrize("damage", [flip, cut])
def test_damage_to_any_kind_of_file_is_named(
    damage: Callable[[Path], None], copy: Path, plan: EmbeddingPlan, state: TrainState
) -> None:
    checkpoints = Checkpoints(copy, About(plan, "p"))
    damaged = kinds(copy)
    assert {"tables/d/*", "dense/d/*", "about/metadata", CHECKSUMS, "tables/_METADATA"} <= set(
        damaged
    )
    for file in damaged.values():
        before = file.read_bytes()
        damage(file)
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore(3, like(state), lambda: state)
        assert file.name in str(caught.value)
        assert f"checkpoint 3 in '{copy}'" in str(caught.value)
        with pytest.raises(CheckpointError):
            read_checkpoint(copy, 3)
        file.write_bytes(before)
    assert int(checkpoints.restore(3, like(state), lambda: state).step) == 3
    checkpoints.close()


def test_a_missing_file_is_named(copy: Path, plan: EmbeddingPlan, state: TrainState) -> None:
    (copy / "3" / "tables" / "_METADATA").unlink()
    with pytest.raises(CheckpointError, match="'tables/_METADATA' is missing"):
        restore(copy, plan, state)
    assert not looks_whole(copy / "3")


def test_a_file_that_hides_for_a_moment_is_not_missing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, hidden = copy / "3" / "tables" / "_METADATA", copy / "hidden"
    file.rename(hidden)
    pauses: list[float] = []

    def back(seconds: float) -> None:
        pauses.append(seconds)
        hidden.rename(file)

    monkeypatch.setattr(checksums.time, "sleep", back)
    assert verify_files(copy / "3")
    assert pauses == [checksums.LOOKS_AGAIN_SECONDS[0]]


def test_a_checkpoint_without_checksums_is_restored_with_a_notice(
    copy: Path, plan: EmbeddingPlan, state: TrainState, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / "3" / CHECKSUMS).unlink()
    with caplog.at_level(logging.WARNING, "workers"):
        restored = restore(copy, plan, state)
    assert "saved without checksums" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, restored.tables, state.tables)
    assert not looks_whole(copy / "3")


@given(
    sizes=st.lists(st.integers(0, 5000), max_size=12),
    shares=st.integers(1, 5),
    chosen=st.integers(0, 11),
    place=st.integers(0, 4999),
    bit=st.integers(0, 7),
)
@settings(max_examples=60, deadline=None)
def test_exactly_one_share_finds_a_flipped_bit(
    sizes: list[int],
    shares: int,
    chosen: int,
    place: int,
    bit: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        (folder / f"part-{number}").mkdir()
        (folder / f"part-{number}" / "file").write_bytes(generator.bytes(size))
    write_checksums(folder)
    assert all(verify_files(folder, share, shares) for share in range(shares))
    if chosen >= len(sizes) or not sizes[chosen]:
        return
    file = folder / f"part-{chosen}" / "file"
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1 << bit
    file.write_bytes(content)
    failed = 0
    for share in range(shares):
        try:
            verify_files(folder, share, shares)
        except CheckpointError as error:
            failed += 1
            assert f"part-{chosen}/file" in str(error)
    assert failed == 1


def test_files_larger_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 7)
    (tmp_path / "file").write_bytes(bytes(range(50)))
    write_checksums(tmp_path)
    monkeypatch.undo()
    assert verify_files(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.workers.test_relayout import features, plan_of, state_of
from workers import sealing
from workers.checkpoint import About, Checkpoints

def killed(folder, hosts):
    join(folder, hosts)
    os.kill(os.getpid(), signal.SIGKILL)

join, sealing.join_parts = sealing.join_parts, killed
specs = features((60, 20))
plan = plan_of(specs, 2, 1, True)
checkpoints = Checkpoints(Path(sys.argv[1]), About(plan, "p"))
checkpoints.save(7, state_of(plan, specs, 7))
checkpoints.wait()
"""


def test_a_process_killed_at_the_checksums_leaves_nothing_visible(
    copy: Path, plan: EmbeddingPlan, state: TrainState
) -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(copy)],
        env=environment,
        timeout=100,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any("unsealed" in entry.name for entry in copy.iterdir())
    assert committed_steps(copy) == (3,)
    checkpoints = Checkpoints(copy, About(plan, "p"))
    checkpoints.save(7, state)
    checkpoints.close()
    assert committed_steps(copy) == (3, 7)
    assert {entry.name for entry in copy.iterdir() if entry.is_dir()} == {"3", "7"}
    assert looks_whole(copy / "7")


def test_a_manager_that_has_restored_can_save(
    copy: Path, plan: EmbeddingPlan, state: TrainState
) -> None:
    checkpoints = Checkpoints(copy, About(plan, "p"))
    restored = checkpoints.restore(3, like(state), lambda: state)
    checkpoints.save(4, restored)
    checkpoints.wait()
    checkpoints.restore(4, like(state), lambda: state)
    checkpoints.close()
    assert committed_steps(copy) == (3, 4)


def test_a_host_looks_at_its_own_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = 3
    places = [tmp_path / "tables" / f"ocdbt.process_{host}" / "d" for host in range(hosts)]
    for host, place in enumerate([*places, tmp_path / "dense"]):
        place.mkdir(parents=True)
        (place / "file").write_bytes(bytes(host + 1))
    (tmp_path / "metadata").write_text("{}")
    for host in range(hosts):
        write_part(tmp_path, host, hosts)
    parts = [json.loads((tmp_path / f".{CHECKSUMS}.{host}").read_text()) for host in range(hosts)]
    assert [sorted(part) for part in parts] == [
        ["dense/file", "metadata", "tables/ocdbt.process_0/d/file"],
        ["tables/ocdbt.process_1/d/file"],
        ["tables/ocdbt.process_2/d/file"],
    ]
    join_parts(tmp_path, hosts)
    assert looks_whole(tmp_path)

    sized: list[str] = []
    check = checksums._check_size

    def checked(folder: Path, name: str, *rest: Any) -> None:
        sized.append(name)
        check(folder, name, *rest)

    monkeypatch.setattr(checksums, "_check_size", checked)
    assert all(verify_files(tmp_path, share, hosts) for share in range(hosts))
    assert sorted(sized) == sorted(name for part in parts for name in part)
    listed: list[Path] = []
    walk = Path.walk
    monkeypatch.setattr(
        Path, "walk", lambda self: (listed.append(one[0]) or one for one in walk(self))
    )
    write_part(tmp_path, 1, hosts)
    assert places[1] in listed
    assert not {places[0], places[2]} & set(listed)
