"""The page of an experiment: its table, and the curves of its best settings side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import RunFolderError
from orchestrator.report import comparison_page, read_run
from orchestrator.report.charts import COLOURS
from orchestrator.report.page import whole_page
from orchestrator.report.reading import RunRecord
from orchestrator.report.words import data_table, element, text

__all__ = ["experiment_page"]


def experiment_page(
    name: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    failures: Sequence[tuple[str, str]],
    runs: Sequence[Path],
) -> str:
    """An experiment as one HTML page that needs no other file.

    Args:
        name: Of the experiment.
        header: Names of the table's columns.
        rows: Its cells, the best setting first.
        failures: Names of trials, and why they failed.
        runs: Folders of runs, one of each setting that has one, in the order of the rows. Those of
            the first settings are compared, as many as there are colours.
    """
    words = (
        f"± is the sample standard deviation over seeds. Below, {min(len(runs), COLOURS)} of "
        f"{len(rows)} settings are compared, the best ones, each by its first seed that finished."
    )
    table = data_table(header, [[text(cell) for cell in row] for row in rows], words=3)
    sections = [("Ranking", table + element("p", text(words), class_="soft"))]
    if failures:
        failed = [(element("code", text(trial)), text(error)) for trial, error in failures]
        sections.append(("Failures", data_table(("trial", "why"), failed, words=2)))
    records = list(_readable(runs[:COLOURS]))
    if not records:
        return whole_page(f"{name} – emberay", element("h1", text(name)), sections)
    return comparison_page(records, name, sections)


def _readable(runs: Sequence[Path]) -> Iterator[RunRecord]:
    """The runs whose folders are still there."""
    for run in runs:
        with suppress(RunFolderError):
            yield read_run(run)
