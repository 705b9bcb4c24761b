"""What all nodes of a cluster must have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.doctor.facts import ClusterFacts
from orchestrator.doctor.finding import Finding, listed

__all__ = [
    "MOST_SKEW_SECONDS",
    "different_data",
    "different_programs",
    "different_versions",
    "skewed_clocks",
]

MOST_SKEW_SECONDS = 1.0
"""Clocks that differ by more are told of."""

_ESSENTIAL = ("emberay", "jax", "jaxlib", "libtpu", "python", "ray")
"""Where these differ, hosts compile different programs or do not understand each other."""


def different_versions(facts: ClusterFacts) -> Iterator[Finding]:
    """Python, packages and emberay's own code must be the same, in the driver too."""
    known = list(facts.known())
    names = sorted({name for _, node in known for name in node.versions})
    for name in names:
        said = _who_has_what((where, node.versions.get(name, "-")) for where, node in known)
        if len(said) > 1:
            yield Finding(
                "versions",
                "error" if name in _ESSENTIAL else "warning",
                (),
                f"{name} is {_told(said)}",
                f"install the same {name} on all nodes, for example with one image or one lock "
                "file",
            )
    codes = _who_has_what((where, node.code) for where, node in known)
    if len(codes) > 1:
        yield Finding(
            "versions",
            "error",
            (),
            f"emberay's source files are not the same: digest {_told(codes)}",
            "bring the same emberay to all nodes",
        )


def different_programs(facts: ClusterFacts) -> Iterator[Finding]:
    """The module of the program must have the same content everywhere."""
    said = _who_has_what((where, node.program) for where, node in facts.known() if node.program)
    if len(said) > 1:
        yield Finding(
            "program",
            "error",
            (),
            f"the program's module is not the same: digest {_told(said)}",
            "bring the same one to all nodes, for example with `ray job submit --working-dir`",
        )


def different_data(facts: ClusterFacts) -> Iterator[Finding]:
    """The data must have the same files everywhere."""
    seen = [(where, node.data) for where, node in facts.known() if node.data and node.data.files]
    said = _who_has_what((where, f"{data.files} files, {data.digest}") for where, data in seen)
    if len(said) > 1:
        yield Finding(
            "data",
            "error",
            (),
            f"the training split is not the same: {_told(said)} (number and digest of the names)",
            "put the data on storage that all nodes share, or copy it to all of them",
        )


def skewed_clocks(facts: ClusterFacts) -> Iterator[Finding]:
    """Clocks must not be far from the driver's."""
    for answer in facts.answers:
        if abs(answer.skew) > MOST_SKEW_SECONDS:
            ahead = "ahead of" if answer.skew > 0 else "behind"
            yield Finding(
                "clock",
                "warning",
                (answer.node,),
                f"the clock is at least {abs(answer.skew):.1f} s {ahead} the driver's",
                "let all nodes take their time from one server (chrony or systemd-timesyncd): "
                "times in logs mislead, and object stores refuse requests of another time",
            )


def _who_has_what(pairs: Iterable[tuple[str, str | None]]) -> dict[str, list[str]]:
    """Names of nodes by what they have."""
    found: dict[str, list[str]] = {}
    for where, value in pairs:
        found.setdefault(value or "-", []).append(where)
    return found


def _told(said: dict[str, list[str]]) -> str:
    """``1.2 on a, b; 1.3 on c``, what most have first."""
    parts = sorted(said.items(), key=lambda item: -len(item[1]))
    return "; ".join(f"{value} on {listed(nodes)}" for value, nodes in parts)
