"""Ray for the length of a run: a cluster that is there already, or a local one of our own."""

from __future__ import annotations

import logging
import math
import os
import socket
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from orchestrator.config import ClusterConfig
from orchestrator.errors import ClusterError
from orchestrator.local_cluster import own_folder, own_token

__all__ = ["RaySession"]

_UV_RUN = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
_ENVIRONMENT = {
    # Under `uv run`, Ray would repackage the folder and build an environment for every worker.
    _UV_RUN: "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The controller tells of dead hosts itself, in fewer words.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed",
    # Otherwise Ray warns that it hides GPUs from actors that ask for none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_REACH_SECONDS = 10.0
_TOO_SLOW = "timed out during startup"


class RaySession:
    """Connects to Ray on entering, and undoes on leaving what it did.

    In this order: a session that this process has already is used and left alone; ``address``, or
    the variable RAY_ADDRESS (set by ``ray job submit``), is connected to; else a local cluster is
    started, and stopped at the end.

    A local cluster listens on the network, but obeys only those who know its token. Unless the user
    has set another (or ``RAY_AUTH_MODE=disabled``), it is made for this cluster alone, and its
    processes have it from their environment: it is in no file. See ``orchestrator.local_cluster``.

    Args:
        config: Address and resources.
        hosts: Host processes that a local cluster must have room for.

    Example:
        >>> with RaySession(ClusterConfig(), hosts=2):      # doctest: +SKIP
        ...     ray.cluster_resources()
    """

    def __init__(self, config: ClusterConfig, hosts: int) -> None:
        self._config = config
        self._hosts = hosts
        self._ours = False
        self._own = ExitStack()

    def __enter__(self) -> Self:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray
        from ray._private import ray_constants

        # Ray reads this when it is first imported, which may have been long before.
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = os.environ[_UV_RUN].lower() in (
            "1",
            "true",
        )
        if ray.is_initialized():
            return self
        quiet: dict[str, Any] = {
            "logging_level": logging.ERROR,
            "log_to_driver": False,
            "configure_logging": True,
        }
        address = self._config.address or os.environ.get("RAY_ADDRESS")
        try:
            if address:
                _check_reachable(address)
                ray.init(address=address, **quiet)
            else:
                self._start(**quiet)
        except Exception as error:  # Ray raises bare exceptions, too
            self._own.close()
            where = f"connect to the Ray cluster at '{address}'" if address else "start Ray locally"
            raise ClusterError(f"cannot {where}: {' '.join(str(error).split())}") from error
        self._ours = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect, and stop a cluster that was started here. May be called twice."""
        if self._ours:
            self._ours = False
            import ray

            ray.shutdown()
            self._own.close()

    def _start(self, **quiet: Any) -> None:
        """Start a local cluster; again, if Ray gives up after its 30 s, as on a busy machine."""
        import ray

        for last in (False, True):
            self._own.enter_context(own_token())
            folder = self._own.enter_context(own_folder())
            try:
                ray.init(
                    address="local",
                    _temp_dir=folder,
                    num_cpus=self._local_cpus(),
                    resources=self._local_resources(),
                    include_dashboard=False,
                    object_store_memory=self._config.object_store_megabytes * 2**20,
                    **quiet,
                )
                return
            except Exception as error:
                if last or _TOO_SLOW not in str(error):
                    raise
                self._own.close()

    def _local_cpus(self) -> int:
        """CPUs to declare: as many as the hosts ask for, so that they can be scheduled."""
        return max(1, math.ceil(self._hosts * self._config.num_cpus_per_host))

    def _local_resources(self) -> dict[str, float]:
        return {
            name: amount * self._hosts
            for name, amount in self._config.resources_per_host.items()
            if name != "GPU"
        }


def _check_reachable(address: str) -> None:
    """Fail within seconds where Ray would try for minutes; other forms than ip:port are passed.

    Raises:
        OSError: Nothing listens there.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS):
            pass
