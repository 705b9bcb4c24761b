"""What is known of a cluster: what its nodes answered, and whether they reach each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from workers.probes.facts import NodeFacts

__all__ = ["DRIVER", "Answer", "ClusterFacts"]

DRIVER = "the driver"
"""Name of the process that leads the run, which answers like a node."""


@dataclass(frozen=True)
class Answer:
    """What a node answered, or why it did not."""

    node: str
    facts: NodeFacts | None
    trouble: str = ""
    """Why there are no facts."""
    asked: float = 0.0
    answered: float = 0.0
    """Unix seconds by the driver's clock, between which the node read its own."""

    @property
    def skew(self) -> float:
        """By how many seconds, at least, the node's clock is ahead of the driver's.

        Negative where it is behind; 0 where the time that the answer took may account for all.
        """
        if self.facts is None:
            return 0.0
        clock = self.facts.clock
        return max(0.0, clock - self.answered) + min(0.0, clock - self.asked)


@dataclass(frozen=True)
class ClusterFacts:
    """What is known of a cluster."""

    answers: tuple[Answer, ...]
    platform: str = "cpu"
    """What the run's devices are."""
    unreached: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By node: the nodes that it cannot connect to, each with the reason."""
    chips_per_host: int = 0
    """Chips that every host should have; 0 where they are not counted."""
    missing: str = ""
    """Why the cluster has no place for all hosts; empty where it has."""
    stop_seconds: float | None = None
    """Seconds that ``ray job stop`` leaves to this job; None where it is none."""
    grace: float = 25.0
    """Seconds in which the driver saves and leaves when it is told to."""

    def known(self) -> Iterator[tuple[str, NodeFacts]]:
        """Nodes that have answered, the driver among them."""
        for answer in self.answers:
            if answer.facts is not None:
                yield answer.node, answer.facts
