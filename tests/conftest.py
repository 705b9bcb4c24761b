"""What all tests share: eight CPU devices, set up before JAX starts its backend; real runs."""

from __future__ import annotations

from typing import Any

import hypothesis
import jax
import pytest

from tests.parallel import Pieces, file_of, processes_for, turn_of
from tests.processes import prepare_processes
from tests.runs import ray_head, small_flights, start

__all__ = ["ray_head", "small_flights", "start"]

prepare_processes()

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Compile quickly instead of well: nearly all a test's time would be XLA's. Programs are the same
# up to their machine code; tests marked ``system`` train in processes that compile as users do.
jax.config.update("jax_disable_most_optimizations", True)

# No example fails for being slow: the machine may be busy, and first calls compile or import.
hypothesis.settings.register_profile("emberay", deadline=None)
hypothesis.settings.load_profile("emberay")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    return processes_for(config)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Pieces:
    return Pieces(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: turn_of(file_of(item.nodeid)))
