"""docs/doctor.md: its commands on this machine, and its table against the rules."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.doctor import node_rules
from orchestrator.doctor.agreement_rules import MOST_SKEW_SECONDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "doctor.md").read_text()


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_commands(words, tmp_path, monkeypatch, capsys):
    assert words[:4] == ["python", "-m", "orchestrator", "doctor"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "run.yaml").write_text("data: synthetic:rows=100,users=10\n")
    here = [word.replace("/shared", str(tmp_path)) for word in words[3:]]
    code = main([*here, "data=synthetic:rows=100,users=10", "--json"])
    printed = json.loads(capsys.readouterr().out)
    wrong = [one for one in printed["findings"] if one["severity"] != "note"]
    assert code == (1 if wrong else 0)
    # What a machine cannot help having, such as few open files, is left aside.
    assert not {"answers", "versions", "program", "clock", "run folder", "data"} & {
        one["check"] for one in wrong
    }
    (node,) = printed["nodes"].values()
    assert node["facts"]["folder"]["path"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "run.yaml"]


def test_what_is_wrong_is_told_with_its_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["doctor", "--run-dir", "/proc/self", f"data={tmp_path}/none"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^error: run folder on \S+: /proc/self cannot be written to", said, re.M)
    assert re.search(r"^error: data on \S+: data '\S+/none' does not exist$", said, re.M)
    assert "    put the data on storage that all nodes share" in said


def test_the_table_has_every_check_with_its_severity():
    found = set()
    for file in (ROOT / "orchestrator" / "doctor").glob("*_rules.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Finding":
                found.add(ast.literal_eval(call.args[0]))
    assert {row[0] for row in rows()} == found
    assert {row[2] for row in rows()} == {"error", "warning", "note"}


def test_figures_are_those_of_the_rules():
    assert f"{node_rules.LEAST_OPEN_FILES:,} open" in PAGE
    assert f"at most {MOST_SKEW_SECONDS:g} s" in PAGE
    assert f"has {node_rules.LEAST_SHM['cpu'] >> 20} MiB" in PAGE
    assert node_rules.LEAST_SHM["gpu"] == node_rules.LEAST_FREE == 1 << 30
