"""Sinks of the run's events: files, TensorBoard and the console."""

from __future__ import annotations

from orchestrator.observe.console import Console, summary_table
from orchestrator.observe.files import EventFile, MetricsFile, PlanFiles, StackFiles
from orchestrator.observe.hosts import HostsFile
from orchestrator.observe.prometheus import Prometheus
from orchestrator.observe.recoveries import Recoveries
from orchestrator.observe.tensorboard import TensorBoard

__all__ = [
    "Console",
    "EventFile",
    "HostsFile",
    "MetricsFile",
    "PlanFiles",
    "Prometheus",
    "Recoveries",
    "StackFiles",
    "TensorBoard",
    "summary_table",
]
