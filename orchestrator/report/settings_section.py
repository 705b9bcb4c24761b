"""The sections on configuration and environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.plain_yaml import write_yaml
from orchestrator.report.reading import RunRecord
from orchestrator.report.words import data_table, element, text

__all__ = ["config_section", "environment_section", "flat", "shown_value"]

_LONG = 200
"""Characters of a value that are shown in a table."""


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots in its keys.

    Example:
        >>> flat({"hosts": 2, "checkpoints": {"every": 50}})
        {'hosts': 2, 'checkpoints.every': 50}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def shown_value(value: object) -> str:
    """A value of a configuration as HTML, cut if it is long."""
    words = "–" if value is None else write_yaml(value).removesuffix("...\n").strip()
    cut = words if len(words) <= _LONG else f"{words[:_LONG]} …"
    return element("code", text(cut))


def config_section(run: RunRecord) -> str:
    """What differs from the defaults, and all of the configuration."""
    if not run.config:
        return element("p", "The folder holds no configuration.", class_="soft")
    defaults = flat(RunConfig().model_dump(mode="json"))
    changed = {
        key: value
        for key, value in flat(run.config).items()
        if key not in defaults or defaults[key] != value
    }
    rows = [
        (
            element("code", text(key)),
            shown_value(value),
            shown_value(defaults[key]) if key in defaults else "",
        )
        for key, value in changed.items()
        if value not in ({}, [])
    ]
    table = data_table(("key", "value", "default"), rows, words=3) if rows else ""
    said = "" if rows else element("p", "Everything is left at its default.", class_="soft")
    whole = element(
        "details",
        element("summary", "All of config.yaml")
        + element("pre", text(write_yaml(dict(run.config)))),
    )
    return said + table + whole


def environment_section(run: RunRecord) -> str:
    """Machine, versions and command of the newest driver."""
    told = run.started.get("environment")
    if not told:
        return element("p", "The run did not write it down.", class_="soft")
    rows = [(text(name), element("code", text(value))) for name, value in told.items()]
    nodes = sorted({event["node"] for event in run.of("host_started")})
    if nodes:
        shown = ", ".join(nodes[:16]) + (f" … of {len(nodes):,}" if len(nodes) > 16 else "")
        rows.append(("hosts on", element("code", text(shown))))
    return data_table(("", ""), rows, words=2)
