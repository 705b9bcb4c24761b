"""Compiled steps kept between processes, so that a restarted host need not compile again."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import jax

from workers.cache import cache_folder, make_private, not_private

__all__ = ["steps_folder", "use_compilation_cache"]

MOST_BYTES = 2 << 30
"""Size beyond which the least recently used compiled programs are thrown away."""


def use_compilation_cache() -> Path | None:
    """Let JAX keep what it compiles in the user's cache folder; returns where, None if it cannot.

    What is compiled for a CPU holds instructions that another may not have, and home folders are
    shared between machines, so each kind of processor has a folder of its own.
    """
    folder = cache_folder() / "compiled" / _processor()
    try:
        make_private(folder)
    except OSError as error:
        print(f"compiled steps are not kept, as '{folder}' cannot be written: {error}", flush=True)
        return None
    trouble = not_private(folder)
    if trouble:
        # What is loaded is run.
        print(f"compiled steps are not kept, as {trouble}", flush=True)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder


def steps_folder() -> Path:
    """Where ``workers.compiled_steps`` keeps what it compiles for this kind of processor."""
    return cache_folder() / "steps" / _processor()


def _processor() -> str:
    """A name for this machine's kind of processor, with all its features."""
    text = f"{platform.machine()} {platform.processor()}"
    described = Path("/proc/cpuinfo")
    if described.exists():
        lines = described.read_text(errors="replace").splitlines()
        told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        text += "".join(sorted(told))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
