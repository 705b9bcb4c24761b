import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator.config import ClusterConfig
from orchestrator.errors import ClusterError
from orchestrator.ray_session import RaySession


def test_an_address_where_nothing_listens_is_refused_at_once():
    with (
        pytest.raises(ClusterError, match=r"cannot connect to the Ray cluster at '127\.0\.0\.1:9'"),
        RaySession(ClusterConfig(address="127.0.0.1:9"), hosts=1),
    ):
        pass


@pytest.mark.parametrize(("variable", "wanted"), [(None, False), ("0", False), ("1", True)])
def test_workers_have_this_environment_under_uv_run_whenever_ray_was_imported(
    monkeypatch, variable, wanted
):
    """Unless the user says otherwise; Ray's own default builds another one for each."""
    from ray._private import ray_constants

    name = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    monkeypatch.setattr(ray_constants, name, not wanted)
    monkeypatch.setenv(name, str(variable))
    if variable is None:
        monkeypatch.delenv(name)
    with pytest.raises(ClusterError), RaySession(ClusterConfig(address="127.0.0.1:9"), 1):
        pass
    assert getattr(ray_constants, name) is wanted


@pytest.mark.parametrize(("errors", "tries"), [(1, 2), (2, 2)])
def test_a_local_cluster_that_is_too_slow_is_started_once_more(monkeypatch, errors, tries):
    """And nothing is left of those that did not start: no process, folder or token."""
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    before = {name: value for name, value in os.environ.items() if "AUTH" in name}
    started, folders, tokens = [], [], []

    def init(*, address, _temp_dir, **options):
        assert address == "local"
        assert options["include_dashboard"] is False
        folders.append(Path(_temp_dir).parent)
        tokens.append(os.environ["RAY_AUTH_TOKEN"])
        Path(_temp_dir).mkdir()
        words = [sys.executable, "-S", "-c", "import time; time.sleep(600)", _temp_dir]
        started.append(subprocess.Popen(words))
        if len(started) <= errors:
            raise Exception("The current node timed out during startup. This could happen ...")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if errors < 2:
        with RaySession(ClusterConfig(), 1):
            assert folders[-1].exists()
    else:
        with pytest.raises(ClusterError, match="cannot start Ray locally: The current node timed"):
            RaySession(ClusterConfig(), 1).__enter__()
    assert len(started) == tries
    assert len(set(tokens)) == tries
    assert not any(folder.exists() for folder in folders)
    assert not any(psutil.pid_exists(process.pid) for process in started)
    assert {name: value for name, value in os.environ.items() if "AUTH" in name} == before


def test_the_address_of_the_environment_is_used(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"at '127\.0\.0\.1:9'"), RaySession(ClusterConfig(), 1):
        pass
