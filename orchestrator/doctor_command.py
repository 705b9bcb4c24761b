"""The command line's ``doctor``: why will this cluster not do?

python -m orchestrator doctor ranker.yaml --run-dir /mnt/runs/first
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from orchestrator.config_loading import load_config
from orchestrator.doctor.facts import DRIVER, ClusterFacts
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.findings import diagnose
from orchestrator.doctor.gathering import gather
from orchestrator.errors import ConfigError

__all__ = ["add_doctor_command", "run_doctor_command"]


def add_doctor_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add ``doctor`` to a command line; returns its own parser."""
    parser = commands.add_parser(
        "doctor",
        help="find out why a cluster will not do, and what to do about it",
        description=(
            "Look at every node of the cluster that a run would use (cluster.address or "
            "RAY_ADDRESS; without either, at this machine): versions, ports, clocks, chips, "
            "environment, storage, limits. Exit code 0: nothing is wrong; 1: something is."
        ),
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="config.yaml | key=value",
        help="as for train; cluster, platform, program and data count",
    )
    parser.add_argument(
        "--run-dir", metavar="DIR", default="runs", help="where runs are written (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run_doctor_command(options: argparse.Namespace) -> bool:
    """Carry out ``doctor``; whether nothing is wrong.

    Raises:
        ConfigError: Something given cannot be used.
        ClusterError: The cluster cannot be reached.
    """
    overrides = [word for word in options.settings if "=" in word]
    files = [word for word in options.settings if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"one configuration file at most, but {len(files)} are given: {files}")
    config = load_config(files[0] if files else None, overrides)
    facts = gather(config, Path(options.run_dir))
    findings = diagnose(facts)
    if options.json:
        nodes = {answer.node: asdict(answer) for answer in facts.answers}
        print(json.dumps({"nodes": nodes, "findings": [asdict(one) for one in findings]}))
    else:
        console = Console()
        for line in _lines(facts, findings):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return all(finding.severity == "note" for finding in findings)


def _lines(facts: ClusterFacts, findings: Sequence[Finding]) -> Iterator[str]:
    for answer in facts.answers:
        if answer.node != DRIVER:
            versions = answer.facts.versions if answer.facts else {}
            shown = ", ".join(f"{name} {versions.get(name)}" for name in ("python", "jax", "ray"))
            yield f"{answer.node}: {shown if versions else 'no answer'}"
    for finding in findings:
        where = f" on {', '.join(finding.nodes)}" if finding.nodes else ""
        yield f"{finding.severity}: {finding.check}{where}: {finding.what}"
        yield f"    {finding.remedy}"
    if not findings:
        count = sum(answer.node != DRIVER for answer in facts.answers)
        yield f"nothing is wrong with {'this machine' if count == 1 else f'these {count} nodes'}"
