"""Checkpoints are sealed by all hosts, each over its own files, while training goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.workers.test_relayout import features, like, plan_of, state_of
from workers import checkpoint, checksums, sealing
from workers.checkpoint import About, Checkpoints, committed_steps
from workers.checksums import CHECKSUMS, looks_whole, verify_files, write_checksums
from workers.errors import CheckpointError
from workers.sealing import seal

HOSTS = 3


def fill(folder: Path, hosts: int = HOSTS) -> None:
    """Files as Orbax leaves them: of every host, and of the first alone."""
    for name in ("tables/manifest", "about/metadata", "_METADATA"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    for host in range(hosts):
        own = folder / f"tables/ocdbt.process_{host}/d"
        own.mkdir(parents=True)
        for number in range(host + 1):
            (own / f"part-{number}").write_bytes(bytes([host, number]) * 100)


def seal_by_all(final: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, set[str]]:
    """Seal on so many threads as there are hosts; returns what each of them read."""
    barrier, read = threading.Barrier(HOSTS), {host: set[str]() for host in range(HOSTS)}
    names = {}
    summed = checksums._size_and_sum

    def noted(file: Path) -> tuple[int, int]:
        read[names[threading.current_thread().name.partition("/")[0]]].add(file.name)
        return summed(file)

    class NamedPool(ThreadPoolExecutor):
        def __init__(self, threads: int) -> None:
            super().__init__(threads, f"{threading.current_thread().name}/")

    monkeypatch.setattr(checksums, "_size_and_sum", noted)
    monkeypatch.setattr(checksums, "ThreadPoolExecutor", NamedPool)

    def run(host: int) -> None:
        threading.current_thread().name = f"host-{host}"
        names[f"host-{host}"] = host
        seal(final, host, HOSTS, lambda point: barrier.wait(10) and None)

    with ThreadPoolExecutor(HOSTS) as hosts:
        list(hosts.map(run, range(HOSTS)))
    return read


def test_every_host_reads_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "7"
    fill(sealing._unsealed(final))
    read = seal_by_all(final, monkeypatch)
    monkeypatch.undo()
    assert read == {
        0: {"manifest", "metadata", "_METADATA", "part-0"},
        1: {"part-0", "part-1"},
        2: {"part-0", "part-1", "part-2"},
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["7"]
    assert looks_whole(final)
    assert verify_files(final)
    by_all = json.loads((final / CHECKSUMS).read_text())
    (final / CHECKSUMS).unlink()
    write_checksums(final)
    assert by_all == json.loads((final / CHECKSUMS).read_text())
    assert not list(final.glob(f".{CHECKSUMS}*"))


def test_a_file_that_its_host_does_not_see_is_named(tmp_path: Path) -> None:
    final = tmp_path / "7"
    folder = sealing._unsealed(final)
    fill(folder, 2)
    checksums.write_part(folder, 1, 2)
    (folder / "tables/ocdbt.process_1/d/late").write_bytes(b"late")

    with pytest.raises(CheckpointError, match="host 1 did not see 'tables/ocdbt"):
        seal(final, 0, 2, lambda point: None)
    assert committed_steps(tmp_path) == ()


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    made = Checkpoints(tmp_path, About(plan_of(features((60, 20)), 2, 1, True), "p"))
    yield made
    made._saving = None
    made.close()


def test_a_save_returns_before_anything_is_written(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = features((60, 20))
    state = state_of(plan_of(specs, 2, 1, True), specs, 3)
    go_on = threading.Event()
    save = checkpoints._manager.save

    def late(*arguments: object, **named: object) -> object:
        assert go_on.wait(60)
        return save(*arguments, **named)

    monkeypatch.setattr(checkpoints._manager, "save", late)
    checkpoints.save(3, state)
    assert committed_steps(tmp_path) == ()
    # What is written is the state at the call, whatever becomes of it.
    expected, wanted = jax.device_get(state.tables), like(state)
    jax.tree.map(lambda array: array.delete(), state.tables)
    go_on.set()
    checkpoints.wait()
    assert committed_steps(tmp_path) == (3,)
    restored = checkpoints.restore(3, wanted, lambda: state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.tables), expected)


def test_a_save_that_failed_is_told_by_the_next_wait_alone(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = features((60, 20))
    state = state_of(plan_of(specs, 2, 1, True), specs, 3)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "seal", full)
    checkpoints.save(3, state)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.wait()
    checkpoints.wait()
    assert committed_steps(tmp_path) == ()
    monkeypatch.undo()
    checkpoints.save(4, state)
    checkpoints.wait()
    assert committed_steps(tmp_path) == (4,)


@pytest.mark.parametrize("broken", ["seal", "finalize"])
def test_a_step_whose_save_failed_can_be_saved_again(
    broken: str, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = features((60, 20))
    first = state_of(plan_of(specs, 2, 1, True), specs, 3)
    second = state_of(plan_of(specs, 2, 1, True), specs, 4)

    async def finalize(folder: object) -> None:
        raise OSError(5, "Input/output error")

    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        if broken == "seal":
            patched.setattr(checkpoint, "seal", fail)
        else:
            patched.setattr(sealing.SealedFolder, "finalize", finalize)
        checkpoints.save(3, first)
        with pytest.raises(Exception, match="Input/output error"):
            checkpoints.wait()
    assert committed_steps(tmp_path) == ()
    checkpoints.save(3, second)
    checkpoints.wait()
    assert [entry.name for entry in tmp_path.iterdir()] == ["3"]
    assert verify_files(tmp_path / "3")
    restored = checkpoints.restore(3, like(second), lambda: second)
    wanted = jax.device_get(second.tables)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.tables), wanted)
    # What is committed stays as it is.
    checkpoints.save(3, first)
    checkpoints.wait()
    restored = checkpoints.restore(3, like(second), lambda: second)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.tables), wanted)
