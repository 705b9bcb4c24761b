"""What a node of a cluster is like, as far as a run would suffer from it.

    Questions   what a node is asked: which folder, data and program, which chips
    NodeFacts   what it answers; a value that crosses processes
    look        asks the node that this process runs on
    Ear, reach  whether nodes can connect to each other

Nothing here judges: ``orchestrator.doctor`` makes findings of facts. Nothing here imports JAX.
"""

from __future__ import annotations

from workers.probes.facts import FolderFacts, Holder, NodeFacts, Peer, Questions
from workers.probes.node import look
from workers.probes.ports import Ear, reach

__all__ = [
    "Ear",
    "FolderFacts",
    "Holder",
    "NodeFacts",
    "Peer",
    "Questions",
    "look",
    "reach",
]
