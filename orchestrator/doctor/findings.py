"""What is wrong with a cluster, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from orchestrator.doctor.agreement_rules import (
    different_data,
    different_programs,
    different_versions,
    skewed_clocks,
)
from orchestrator.doctor.environment_rules import (
    different_environments,
    misleading_environment,
    modules_compiled_anew,
)
from orchestrator.doctor.facts import ClusterFacts
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.node_rules import (
    few_open_files,
    held_chips,
    little_shared_memory,
    missing_kernels,
    missing_programs,
    short_stops,
    silent_nodes,
    too_small,
    unreached_nodes,
    unusable_data,
    unusable_folders,
)

__all__ = ["RULES", "Finding", "diagnose"]

type Rule = Callable[[ClusterFacts], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    silent_nodes,
    too_small,
    different_versions,
    missing_programs,
    different_programs,
    unreached_nodes,
    skewed_clocks,
    held_chips,
    misleading_environment,
    different_environments,
    modules_compiled_anew,
    unusable_folders,
    unusable_data,
    different_data,
    little_shared_memory,
    few_open_files,
    missing_kernels,
    short_stops,
)
"""All that is looked for."""


_ORDER = ("error", "warning", "note")


def diagnose(facts: ClusterFacts) -> list[Finding]:
    """Apply all rules: errors first; what is found on several nodes is one finding.

    Example:
        >>> diagnose(ClusterFacts((Answer("a", None, "it did not answer"),)))   # doctest: +SKIP
        [Finding('answers', 'error', ('a',), 'it did not answer', 'see why …')]
    """
    found = _joined([finding for rule in RULES for finding in rule(facts)])
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def _joined(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that say the same of several nodes, made one."""
    by_words: dict[Finding, list[str]] = {}
    for finding in findings:
        by_words.setdefault(replace(finding, nodes=()), []).extend(finding.nodes)
    return [replace(words, nodes=tuple(nodes)) for words, nodes in by_words.items()]
