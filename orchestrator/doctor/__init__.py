"""Why a cluster will not do: facts are gathered on its nodes, and findings made of them.

    facts       what is known of a cluster
    findings    a Finding, and ``diagnose``, which applies all rules
    *_rules     pure functions from facts to findings
    gathering   asks the nodes, through ``orchestrator.hosts.node_probes``
    launch      the small part of it before a run

``python -m orchestrator doctor`` is in ``orchestrator.doctor_command``.
"""

from __future__ import annotations

from orchestrator.doctor.facts import Answer, ClusterFacts
from orchestrator.doctor.findings import Finding, diagnose

__all__ = ["Answer", "ClusterFacts", "Finding", "diagnose"]
