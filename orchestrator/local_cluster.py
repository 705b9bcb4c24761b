"""What keeps others out of a Ray cluster that is started on this machine: a token, and a folder.

Ray itself would keep the token in the user's home, where others may read it, and its sockets and
what its workers load below ``/tmp/ray``, where every user of the machine may put other ones.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import psutil

from orchestrator.private_folders import private_folder

__all__ = ["own_folder", "own_token"]

_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Environment variables by which Ray's processes know the token that they ask each other for."""
_END_SECONDS = 3.0
"""Longest wait for processes that were ended to be gone."""


@contextmanager
def own_token() -> Iterator[None]:
    """A token for a cluster that is about to be started here, unless the user has set one.

    ``RAY_AUTH_MODE=disabled`` is left as it is. Afterwards the environment is as before: another
    cluster has another token.
    """
    before = {name: os.environ.get(name) for name in _AUTHENTICATION}
    mode, *given = before.values()
    if (mode or "token").lower() == "token" and not any(given):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        _read_authentication_anew()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_authentication_anew()


@contextmanager
def own_folder() -> Iterator[str | None]:
    """A folder of this user alone for Ray's sockets and logs, removed at the end.

    Those of drivers that were killed are removed when it is made. Processes of a cluster that did
    not start are ended before it goes. None where ``RAY_TMPDIR`` says where such files go.
    """
    if os.environ.get("RAY_TMPDIR"):
        yield None
        return
    with private_folder() as folder:
        try:
            # Ray lets everybody write to the folder that it is given, but none gets that far.
            yield f"{folder}/ray"
        finally:
            _end_processes_of(str(folder))


def _end_processes_of(folder: str) -> None:
    """End what is left of a cluster: processes below this one whose command names its folder."""
    left = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(folder in word for word in process.cmdline()):
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=_END_SECONDS)


def _read_authentication_anew() -> None:
    """Ray keeps mode and token as it first saw them; no public call tells it of others."""
    raylet: Any = import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
