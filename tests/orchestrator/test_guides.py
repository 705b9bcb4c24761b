"""The commands and examples of docs/first-run.md and docs/limits.md, as they stand.

Training is led for real, with simulated hosts; what reads a trained model is run in test_tables.py,
test_predict.py and test_doctor_page.py, and told here what it would read.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from driving import Simulation, fit, simulation

from orchestrator import export_command, predict_command, table_commands
from orchestrator.cli import main
from orchestrator.config_loading import load_config
from workers.planning import make_plan
from workers.program import load_program

__all__ = ["simulation"]

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Words behind ``python -m orchestrator``; pip is left out."""
    lines = [shlex.split(line) for line in "".join(blocks(page, "bash")).splitlines()]
    lines = [words[2:] if words[:2] == ["uv", "run"] else words for words in lines]
    assert all(
        words[:3] == ["python", "-m", "orchestrator"] for words in lines if words[0] != "pip"
    )
    return [words[3:] for words in lines if words[0] != "pip"]


def test_first_run(simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = []
    monkeypatch.setattr(table_commands, "_describe", lambda options: told.append(options))
    monkeypatch.setattr(predict_command, "_predict", lambda options: told.append(options))
    monkeypatch.setattr(export_command, "_export", lambda options: told.append(options))
    ran = commands("docs/first-run.md")
    for words in ran:
        if words != ["doctor"]:
            # A simulated host has one device.
            one = ["devices_per_host=1"] if words[0] == "train" else []
            assert main([*words, *one]) == 0, words
    assert ["doctor"] in ran
    assert [options.run_folder for options in told] == ["runs/first"] * 3
    assert simulation.launches == 2  # the run that is finished is left as it is
    assert "2 runs compared" in Path("wide.html").read_text()
    page = (ROOT / "docs" / "first-run.md").read_text()
    (table,) = re.findall(r"\| in the folder \|.*\n((?:\|.*\n)+)", page)
    named = [name for row in table.splitlines()[1:] for name in re.findall("`(.*?)`", row[:90])]
    assert len(named) == 10
    for name in set(named) - {"logs/"}:  # simulated hosts write none
        assert (tmp_path / "runs" / "first" / name).exists(), name


def test_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rows, r = 1500, np.random.default_rng(0)
    columns = {
        "user_id": r.integers(0, 99, rows),
        "item_id": r.integers(0, 50, rows),
        "last_items": pa.array([list(r.integers(0, 50, n % 4)) for n in range(rows)]),
        "age": r.normal(35, 9, rows),
        "clicked": r.integers(0, 2, rows),
    }
    (tmp_path / "logs").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "logs" / "part.parquet")
    (tmp_path / "my_ranker.py").write_text(blocks("README.md", "python")[1])
    (settings,) = blocks("docs/limits.md", "yaml")
    (tmp_path / "my_limits.yaml").write_text(settings)
    describing, planning, reporting, *training = commands("docs/limits.md")
    assert main(describing) == 0
    assert "limits for batches of 512 on 4 devices" in capsys.readouterr().out
    assert main([*planning, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["limits"]
    by_hand = load_config("my_limits.yaml").fixed_limits
    assert by_hand.keys() == found.keys() == {"item_user"}
    # What is set by hand is what the plan has.
    assert main(["plan", "my_limits.yaml", "--batches", "0", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["limits"]
    assert kept["item_user"] == by_hand["item_user"].model_dump()
    loaded = [load_config(*_settings(words)) for words in training]
    assert [(one.minibatching, one.drop_ids) for one in loaded] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    # The limits of the newest plan in a run's folder.
    program = load_program(loaded[0].program, {})
    run = loaded[0].run_spec("logs", "runs/first")
    roomiest = make_plan(program, run, 2, None, None, 0)
    for version in (2, 10):
        plan = make_plan(program, run, 2, {}, roomiest if version == 10 else None, version)
        Path("runs/first").mkdir(parents=True, exist_ok=True)
        Path(f"runs/first/plan-{version}.json").write_text(plan.to_json())
    (block,) = blocks("docs/limits.md", "python")
    exec(compile(block, "<docs>", "exec"), {})
    written = load_config("limits.yaml").fixed_limits
    assert written["item_user"].model_dump() == vars(roomiest.limits["item_user"])
    assert reporting[0] == "report"  # run in test_reports_page.py


def _settings(words: list[str]) -> tuple[str | None, list[str]]:
    assert words[0] == "train"
    file = next((word for word in words[1:] if "=" not in word), None)
    return file, [word for word in words[1:] if "=" in word]


def test_a_report_has_the_section_that_the_page_names(
    simulation: Simulation, tmp_path: Path
) -> None:
    fit(tmp_path / "run")
    page = (ROOT / "docs" / "limits.md").read_text()
    named = re.search(r"under\n\*(.*?)\*", page)
    assert named and named[1] in (tmp_path / "run" / "report.html").read_text()
