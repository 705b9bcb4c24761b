"""The carriers of hosts: real ones on Ray, and simulated ones on a clock of their own.

``interface`` says what the controller asks of them. The others are for Ray alone.
"""

from __future__ import annotations

from orchestrator.hosts.interface import (
    Answered,
    Died,
    Held,
    HostGroup,
    Observation,
    PulseSeen,
    Raised,
    StacksSeen,
)

__all__ = [
    "Answered",
    "Died",
    "Held",
    "HostGroup",
    "Observation",
    "PulseSeen",
    "Raised",
    "StacksSeen",
]
