"""Everything about the node that this process runs on."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib import import_module, metadata, util
from pathlib import Path

from workers.chips import unusable_lock
from workers.probes.chips import holders_of
from workers.probes.facts import NodeFacts, Questions
from workers.probes.storage import look_at_data, look_at_folder

__all__ = ["PACKAGES", "look"]

PACKAGES = (
    "emberay",
    "flax",
    "jax",
    "jaxlib",
    "libtpu",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "pyarrow",
    "ray",
)
"""Distributions whose versions are told."""

_LISTENED_TO = re.compile(r"(MEGASCALE|TPU|LIBTPU|JAX|XLA|NCCL|CLOUD_TPU|ALLOW_MULTIPLE_LIBTPU)_.*")
_PROXY = re.compile(r"(http|https|grpc|all)_proxy", re.IGNORECASE)
_NO_PROXY = re.compile(r"no_(grpc_)?proxy", re.IGNORECASE)
_NATIVE = ("kernels._preprocess", "kernels._cpu_kernels")
_SHM = Path("/dev/shm")
_FLOORS = ("kernels", "workers", "orchestrator")


def look(questions: Questions) -> NodeFacts:
    """Look at this node: files, processes and limits of the system, as this user sees them.

    Takes some hundredths of a second, but for storages that do not answer.

    Example:
        >>> look(Questions()).versions["python"]       # doctest: +SKIP
        '3.12.1'
    """
    ask = questions
    folder = look_at_folder(ask.folder, ask.marker, ask.seconds) if ask.folder else None
    return NodeFacts(
        versions=_versions(),
        code=_code(),
        program=None if ask.program is None else _program(ask.program),
        environment=_environment(os.environ),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        shm_bytes=shutil.disk_usage(_SHM).total if _SHM.is_dir() else None,
        kernels={name: said for name in _NATIVE if (said := _why_not(name))},
        compiled_anew=_why_compiled_anew(),
        holders=holders_of(ask.platform),
        closed_lock=unusable_lock() if ask.platform == "tpu" else "",
        folder=folder,
        data=look_at_data(ask.data, ask.seconds) if ask.data else None,
        clock=time.time(),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "-"
    return found


@cache
def _code() -> str:
    """Digest of emberay's source files: an editable installation changes without its version."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for floor in _FLOORS:
        for file in sorted((root / floor).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _program(path: str) -> str:
    """Digest of the file of a program's module; empty if there is none. It is not imported."""
    try:
        found = util.find_spec(path.partition(":")[0])
    except (ImportError, ValueError):  # a package above it cannot be imported
        return ""
    if found is None or found.origin is None:
        return ""
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()[:12]


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What the libraries listen to. A proxy's address may hold a password: its name is enough."""
    found = {k: v for k, v in variables.items() if _LISTENED_TO.fullmatch(k)}
    found |= {k: "" for k in variables if _PROXY.fullmatch(k)}
    return found | {k: v for k, v in variables.items() if _NO_PROXY.fullmatch(k)}


def _why_not(module: str) -> str:
    """Why a C++ module cannot be loaded; empty if it can."""
    try:
        import_module(module)
    except ImportError as error:
        return str(error)
    return ""


def _why_compiled_anew() -> str:
    """Why JAX's modules are not kept compiled; empty if they are, or will be once imported."""
    found = util.find_spec("jax")
    if found is None or found.origin is None:
        return ""
    compiled = Path(util.cache_from_source(found.origin))
    if compiled.is_file():
        return ""
    if sys.dont_write_bytecode:
        return "PYTHONDONTWRITEBYTECODE is set"
    folder = next(above for above in compiled.parents if above.is_dir())
    return "" if os.access(folder, os.W_OK) else f"{folder} cannot be written to"
