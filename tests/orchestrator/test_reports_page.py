"""The commands and the example of docs/reports.md, as they stand."""

import re
import shlex
from pathlib import Path

from driving import fit, simulation

from orchestrator import table_commands
from orchestrator.cli import main
from orchestrator.config_loading import load_config
from workers.profiling import Profile

__all__ = ["simulation"]

PAGE = (Path(__file__).parents[2] / "docs" / "reports.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_reports(simulation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(Path("runs/first"))
    fit(Path("runs/wide"), seed=1)
    lines = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    ours = [words[3:] for words in lines if words[:3] == ["python", "-m", "orchestrator"]]
    assert [words[0] for words in ours] == ["tables", "train", "report", "report"]
    shown = []  # run for real in test_tables.py
    monkeypatch.setattr(table_commands, "_board", lambda options: shown.append(options.table))
    assert main(ours[0]) == 0
    assert shown == [["user", "item"]]
    assert load_config(None, ours[1][1:]).profile.chosen() == Profile(100, 105, (0, 1))
    for words in ours[2:]:
        assert main(words) == 0
    assert "2 runs compared" in Path("wide.html").read_text()
    (block,) = blocks("python")
    names = {}
    exec(compile(block, "<docs>", "exec"), names)
    assert names["page"] == Path("runs/first/report.html").read_text()


def test_the_files_that_are_named_are_there(simulation, tmp_path):
    fit(tmp_path / "run")
    names = re.findall(r"^\| `(\S+\.jsonl?)` \|", PAGE, re.MULTILINE)
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "run" / name.replace("<version>", "0")).is_file(), name
