"""A run's folder as one page: what came of it, where time and memory went, what went wrong.

    events.jsonl  metrics.jsonl  hosts.jsonl  summary.json  plan-*.json  config.yaml
         │ read_run
         ▼
      RunRecord ──report_page────────►  HTML of one run
      RunRecords ──comparison_page───►  HTML of several, side by side

Everything below ``read_run`` is a pure function. The page needs nothing but itself: no network, no
other file.
"""

from __future__ import annotations

from orchestrator.report.comparison import comparison_page
from orchestrator.report.page import report_page
from orchestrator.report.reading import RunRecord, read_run

__all__ = ["RunRecord", "comparison_page", "read_run", "report_page"]
