"""Environment variables that are left from something else, and would disturb hosts.

What the hosts set themselves at every start (``JAX_PLATFORMS`` and the like), and what TPU machines
set for libtpu, is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from orchestrator.doctor.facts import DRIVER, ClusterFacts
from orchestrator.doctor.finding import Finding, Severity, listed

__all__ = ["different_environments", "misleading_environment", "modules_compiled_anew"]

_OF_ANOTHER_RUN = "it is of another run"
_MISLEADING = {
    "JAX_COORDINATOR_ADDRESS": _OF_ANOTHER_RUN,
    "JAX_DEBUG_NANS": "every operation then waits for the one before it",
    "JAX_DISABLE_JIT": "every operation then runs by itself, very slowly",
    "JAX_ENABLE_X64": "arrays then take 64 bits where they are not told otherwise",
    "JAX_NUM_PROCESSES": _OF_ANOTHER_RUN,
    "JAX_PROCESS_ID": _OF_ANOTHER_RUN,
}
"""Variables that should not be set where Ray is started, and why not."""
_OFF = ("", "0", "false")

_COMPILED_IN = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_")
"""Beginnings of variables that change what is compiled."""
_OURS = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "JAX_CPU_COLLECTIVES_IMPLEMENTATION")
"""Variables that hosts get anew at every start."""


def misleading_environment(facts: ClusterFacts) -> Iterator[Finding]:
    """Variables that are left from something else must not reach the hosts."""
    unset = "unset it where Ray is started on the node, and start Ray again"
    for where, node in facts.known():
        if where == DRIVER:
            continue
        for name, value in sorted(node.environment.items()):
            severity: Severity = "note" if name.startswith("MEGASCALE_") else "warning"
            why = _why_not(name, value, facts)
            if why:
                yield Finding("environment", severity, (where,), f"{name} is set: {why}", unset)
        proxies = sorted(name for name in node.environment if name.lower().endswith("_proxy"))
        if proxies and not any(name.lower().startswith("no_") for name in proxies):
            yield Finding(
                "environment",
                "warning",
                (where,),
                f"{listed(proxies)} is set: connections between hosts may go to the proxy, and "
                "hang",
                "set no_proxy to the nodes' addresses, or unset it, where Ray is started",
            )


def different_environments(facts: ClusterFacts) -> Iterator[Finding]:
    """Variables that change what is compiled must have the same value on all nodes."""
    environments = {where: node.environment for where, node in facts.known() if where != DRIVER}
    names = {name for variables in environments.values() for name in variables}
    for name in sorted(names):
        if not name.startswith(_COMPILED_IN) or name in _OURS:
            continue
        said: dict[str, list[str]] = {}
        for where, variables in environments.items():
            said.setdefault(_shown(variables, name), []).append(where)
        if len(said) > 1:
            told = "; ".join(f"{value} on {listed(nodes)}" for value, nodes in said.items())
            yield Finding(
                "environment",
                "error",
                (),
                f"{name} is {told}: hosts would compile different programs, and hang",
                f"set {name} alike where Ray is started on every node, or nowhere",
            )


def modules_compiled_anew(facts: ClusterFacts) -> Iterator[Finding]:
    """Python should find its modules compiled: importing JAX takes three times as long else."""
    for where, node in facts.known():
        if node.compiled_anew:
            yield Finding(
                "bytecode",
                "note",
                (where,),
                f"{node.compiled_anew}, and JAX was installed without bytecode: every process "
                "compiles its modules again, and starts seconds later",
                "compile them once: `uv sync --compile-bytecode`, or `python -m compileall -q` "
                "on the folder that they are installed in",
            )


def _why_not(name: str, value: str, facts: ClusterFacts) -> str:
    """Why a variable should not have this value; empty if it may."""
    if name.startswith("MEGASCALE_"):
        return (
            "slices of an earlier start found each other by it. emberay's hosts remove it; other "
            "programs that use TPUs there may hang"
        )
    if name in _MISLEADING and value.lower() not in _OFF:
        return _MISLEADING[name]
    if facts.platform == "cpu":
        counts = name == "XLA_FLAGS" and "xla_force_host_platform_device_count" in value
        return "it sets the number of devices, which devices_per_host does" if counts else ""
    return _why_not_for_tpus(name, value, facts) if facts.platform == "tpu" else ""


def _why_not_for_tpus(name: str, value: str, facts: ClusterFacts) -> str:
    chips = facts.chips_per_host
    match name:
        case "TPU_CHIPS_PER_PROCESS_BOUNDS" | "TPU_CHIPS_PER_HOST_BOUNDS":
            sizes = [int(size) for size in value.split(",") if size.strip().isdecimal()]
            taken = math.prod(sizes)
        case "TPU_VISIBLE_CHIPS" | "TPU_VISIBLE_DEVICES":
            taken = len([chip for chip in value.split(",") if chip.strip()])
        case "TPU_LOAD_LIBRARY":
            return "libtpu is then not loaded" if value == "0" else ""
        case "ALLOW_MULTIPLE_LIBTPU_LOAD":
            off = value.lower() in _OFF
            return "" if off else "two processes may then take the same chips"
        case _:
            return ""
    return f"libtpu then takes {taken} chips of {chips}" if chips and taken != chips else ""


def _shown(variables: Mapping[str, str], name: str) -> str:
    return f"'{variables[name]}'" if name in variables else "not set"
