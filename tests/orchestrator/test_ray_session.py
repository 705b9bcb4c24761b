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


def test_the_address_of_the_environment_is_used(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"at '127\.0\.0\.1:9'"), RaySession(ClusterConfig(), 1):
        pass
