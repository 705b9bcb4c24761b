"""The fixtures of the system tests: a Ray cluster, a small piece of the flights, started runs."""

from tests.system.conftest import ray_head, small_flights, start

__all__ = ["ray_head", "small_flights", "start"]
