"""The driver: decides what the hosts of a run do, and looks after them while they do it.

    from orchestrator import Driver

    with Driver({"hosts": 2, "epochs": 1}) as driver:
        summary = driver.fit()

This is the only floor that imports Ray. Names are imported when they are first asked for, after a
check that the ``kernels`` package found is the one of this distribution.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchestrator.installation import WrongPackageError, check_installation

if TYPE_CHECKING:
    from orchestrator.config import RunConfig
    from orchestrator.config_loading import load_config
    from orchestrator.driver import Driver
    from orchestrator.errors import (
        ClusterError,
        CompilerError,
        ConfigError,
        HostError,
        RunFailed,
        RunFolderError,
        StorageUnavailable,
    )
    from orchestrator.summary import Summary

__all__ = [
    "ClusterError",
    "CompilerError",
    "ConfigError",
    "Driver",
    "HostError",
    "RunConfig",
    "RunFailed",
    "RunFolderError",
    "StorageUnavailable",
    "Summary",
    "WrongPackageError",
    "check_installation",
    "load_config",
]

_HOMES = {
    "ClusterError": "orchestrator.errors",
    "CompilerError": "orchestrator.errors",
    "ConfigError": "orchestrator.errors",
    "Driver": "orchestrator.driver",
    "HostError": "orchestrator.errors",
    "RunConfig": "orchestrator.config",
    "RunFailed": "orchestrator.errors",
    "RunFolderError": "orchestrator.errors",
    "StorageUnavailable": "orchestrator.errors",
    "Summary": "orchestrator.summary",
    "load_config": "orchestrator.config_loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
    check_installation()
    return getattr(import_module(_HOMES[name]), name)
