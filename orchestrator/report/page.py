"""The page of one run."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.host_section import host_section
from orchestrator.report.reading import RunRecord
from orchestrator.report.sections import head, quality, time_spent
from orchestrator.report.settings_section import config_section, environment_section
from orchestrator.report.style import SCRIPT, STYLE
from orchestrator.report.table_section import plan_section, table_section
from orchestrator.report.timeline import timeline_of
from orchestrator.report.words import element, text

__all__ = ["report_page", "whole_page"]


def report_page(run: RunRecord) -> str:
    """A run as one HTML page that needs no other file.

    Args:
        run: The run; it may be running, have failed, or have been killed.
    """
    timeline = timeline_of(run.events)
    sections = [
        ("Quality and speed", quality(run)),
        ("Where the time went", time_spent(run, timeline)),
        ("Hosts", host_section(run)),
        ("Tables, limits and skew", table_section(run)),
        ("Plan and memory", plan_section(run)),
        ("Configuration", config_section(run)),
        ("Environment", environment_section(run)),
    ]
    return whole_page(f"{run.name} – emberay", head(run, timeline), sections)


def whole_page(title: str, top: str, sections: Sequence[tuple[str, str]]) -> str:
    """A page of sections with links to them.

    Args:
        title: Of the window.
        top: HTML above the sections.
        sections: Title and HTML of each.
    """
    anchors = [name.split()[0].lower().strip(",") for name, _ in sections]
    links = "".join(
        element("a", text(name), href=f"#{anchor}")
        for anchor, (name, _) in zip(anchors, sections, strict=True)
    )
    parts = "".join(
        element("section", element("h2", text(name), id=anchor) + content)
        for anchor, (name, content) in zip(anchors, sections, strict=True)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>"
        f"{top}{element('nav', links)}{parts}</main><script>{SCRIPT}</script></body></html>\n"
    )
