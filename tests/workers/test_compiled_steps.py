"""Executables kept for the process that comes next."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.runs import ROOT
from workers import compiled_steps
from workers.compiled_steps import CompiledSteps
from workers.mesh import make_mesh, spread
from workers.phases import Phases


def a_step(counted: list[int]):
    def step(state, batch):
        counted.append(1)  # when it is traced
        return state * 2 + jnp.sum(batch), batch

    layout = spread(make_mesh())
    return jax.jit(step, donate_argnums=0, in_shardings=layout, out_shardings=layout)


def array(values):
    return jax.device_put(values, spread(make_mesh()))


def steps_in(folder, session="one", place="host-0-of-1"):
    return CompiledSteps(folder, session, place, Phases())


def run(step):
    state = array(jnp.arange(8.0))
    for _ in range(3):
        state, _ = step(state, array(jnp.ones(8)))
    return np.asarray(state).tolist()


def folder_of(folder, session="one"):
    kept = steps_in(folder, session)._folder
    assert kept is not None
    return kept


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.fixture(autouse=True)
def no_other_cache():
    """Whether JAX's cache is used is decided once in a process, maybe by an earlier test."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


def test_a_step_that_was_compiled_is_not_traced_again(tmp_path):
    counted: list[int] = []
    want = run(a_step([]))
    assert run(steps_in(tmp_path).prepared("train", a_step(counted))) == want
    assert counted == [1]
    assert files(tmp_path) == [f"{folder_of(tmp_path).name}/train-host-0-of-1"]
    assert "one" not in str(folder_of(tmp_path).relative_to(tmp_path))
    for _ in range(2):  # it is put back after use
        assert run(steps_in(tmp_path).prepared("train", a_step(counted))) == want
    assert counted == [1]


def test_it_is_taken_for_no_other_step_place_or_session(tmp_path):
    counted: list[int] = []
    run(steps_in(tmp_path).prepared("train", a_step(counted)))
    run(steps_in(tmp_path).prepared("evaluate", a_step(counted)))
    run(steps_in(tmp_path, place="host-1-of-2").prepared("train", a_step(counted)))
    run(steps_in(tmp_path, session="two").prepared("train", a_step(counted)))
    assert len(counted) == 4
    for nowhere in (steps_in(tmp_path, session=""), steps_in(None)):
        run(nowhere.prepared("train", a_step(counted)))
    assert len(counted) == 6
    assert len(files(tmp_path)) == 4


def test_one_that_cannot_be_loaded_is_compiled_anew(tmp_path, capfd):
    counted: list[int] = []
    run(steps_in(tmp_path).prepared("train", a_step(counted)))
    (folder_of(tmp_path) / "train-host-0-of-1").write_bytes(b"nonsense")
    run(steps_in(tmp_path).prepared("train", a_step(counted)))
    assert len(counted) == 2
    assert "is of no use" in capfd.readouterr().out
    run(steps_in(tmp_path).prepared("train", a_step(counted)))
    assert len(counted) == 2


class Planted:
    """Runs something when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("way", ["plain", "another key", "another step's", "changed", "cut off"])
def test_what_no_host_of_the_run_wrote_is_not_looked_into(tmp_path, capfd, way):
    counted: list[int] = []
    mark, steps = tmp_path / "was here", tmp_path / "steps"
    run(steps_in(steps).prepared("train", a_step(counted)))
    file = folder_of(steps) / "train-host-0-of-1"
    whole = file.read_bytes()
    planted = pickle.dumps(Planted(mark))
    match way:
        case "plain":
            file.write_bytes(planted)
        case "another key":
            compiled_steps._write(file, b"guessed", planted)
        case "another step's":
            other = file.with_name("evaluate-host-0-of-1")
            compiled_steps._write(other, b"one", planted)
            other.replace(file)
        case "changed":
            file.write_bytes(whole[:32] + planted)
        case "cut off":
            file.write_bytes(whole[:20])
    run(steps_in(steps).prepared("train", a_step(counted)))
    assert len(counted) == 2
    assert not mark.exists()
    said = capfd.readouterr().out
    assert "it was not written by a host of this run, or is damaged" in said
    compiled_steps._write(file, b"one", planted)  # whereas this is taken for a host's
    run(steps_in(steps).prepared("train", a_step(counted)))
    assert mark.exists()


def test_one_that_fails_when_it_is_run_is_not_tried_twice(tmp_path):
    counted: list[int] = []
    run(steps_in(tmp_path).prepared("train", a_step(counted)))
    step = steps_in(tmp_path).prepared("train", a_step(counted))
    step(array(jnp.arange(8.0)), array(jnp.ones(8)))  # and what came of it was not lived through
    assert files(tmp_path) == []
    run(steps_in(tmp_path).prepared("train", a_step(counted)))
    assert len(counted) == 2


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert run(steps_in(tmp_path / "file").prepared("train", a_step([]))) == run(a_step([]))
    assert "is not kept" in capfd.readouterr().out


def test_the_oldest_sessions_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_steps, "MOST_SESSIONS", 2)
    for age, session in ((30, "a"), (20, "b"), (10, "c")):
        run(steps_in(tmp_path, session).prepared("train", a_step([])))
        os.utime(folder_of(tmp_path, session), (age, age))
    left = set(tmp_path.iterdir())
    assert folder_of(tmp_path, "c") in left
    assert len(left) == 2
    assert left < {folder_of(tmp_path, session) for session in "abc"}


def test_what_came_out_of_jaxs_own_cache_is_left_to_it(tmp_path):
    """In processes of their own: what that cache does is decided once in each."""
    code = f"""
import sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_compilation_cache_dir", {str(tmp_path / "jax")!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from workers.compiled_steps import CompiledSteps
from workers.phases import Phases
step = CompiledSteps(Path({str(tmp_path / "steps")!r}), sys.argv[1], "host-0-of-1", Phases())
print(float(step.prepared("train", jax.jit(lambda x: x * 2))(3.0)))
"""
    for session in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-c", code, session],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))},
        )
        assert done.stdout.strip() == "6.0"
    first = folder_of(tmp_path / "steps", "first").name
    assert files(tmp_path / "steps") == [f"{first}/train-host-0-of-1"]
    assert Path(tmp_path / "jax").exists()
