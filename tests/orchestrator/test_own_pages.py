"""The commands and examples of docs/own-data.md and docs/own-model.md, as they stand.

Training itself is left out: the configuration is made, the data checked, and the program loaded.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import table_commands
from orchestrator.cli import main
from orchestrator.config_loading import load_config
from orchestrator.own_data import COLUMNS_PROGRAM, complete
from workers.planning import check_inputs, resolve_data
from workers.program import load_program

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str) -> list[list[str]]:
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of."""
    monkeypatch.chdir(tmp_path)
    r = np.random.default_rng(0)
    lines = [
        f"{user}::{item}::{r.integers(1, 6)}::{978300000 + 5000 * n}"
        for n, (user, item) in enumerate(r.integers(1, 40, (400, 2)))
    ]
    (tmp_path / "ratings.dat").write_text("\n".join(lines) + "\n")
    people = [f"{n},{r.integers(15, 70)},{r.choice(['F', 'M'])}" for n in range(1, 40)]
    (tmp_path / "users.csv").write_text("user,age,sex\n" + "\n".join(people) + "\n")
    films = [f"{n},{r.choice(['Comedy', 'Comedy|Drama', 'War'])}" for n in range(1, 40)]
    (tmp_path / "items.csv").write_text("item,genres\n" + "\n".join(films) + "\n")
    logs = {"page": r.integers(0, 20, 300), "clicked": r.integers(0, 2, 300)}
    (tmp_path / "logs").mkdir()
    pq.write_table(pa.table(logs), tmp_path / "logs" / "a.parquet")
    return tmp_path


def check(words: list[str], folder: Path) -> None:
    """Everything of a training run that comes before the launch."""
    file, settings = None, [word for word in words if "=" in word]
    for word in words:
        file = word if "=" not in word else file
    config = complete(load_config(file, settings))
    program = load_program(config.program, config.parameters)
    data = resolve_data(program, config.data)
    summary = check_inputs(program, config.run_spec(data, str(folder)), config.hosts)
    assert summary.rows and summary.test_rows
    if not (folder / "runs" / "first").exists() and config.label is None:
        (folder / "runs" / "first").mkdir(parents=True)
        (folder / "runs" / "first" / "config.yaml").write_text(config.to_yaml())


def test_own_data(folder: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in ("_describe", "_neighbours", "_export"):
        monkeypatch.setattr(table_commands, name, lambda options, name=name: seen.append(name))
    for words in commands("own-data.md"):
        assert words[:3] == ["python", "-m", "orchestrator"]
        words = words[3:]
        if words[0] == "train":
            check(words[1:], folder)
            continue
        output = words.pop() if ">" in words else None
        words = [word for word in words if word != ">"]
        capsys.readouterr()
        assert main(words) == 0, words
        if output:
            Path(output).write_text(capsys.readouterr().out)
    assert seen == ["_describe", "_neighbours", "_export"]  # run for real in test_tables.py
    (fields,) = blocks("own-data.md", "yaml")
    (folder / "fields.yaml").write_text(fields)
    parameters = load_config(folder / "fields.yaml").parameters
    program = load_program(COLUMNS_PROGRAM, parameters)
    assert {feature.name for feature in program.features} == set(parameters["features"])
    assert len(program.dense) == len(parameters["numbers"])


def test_own_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "workers" / "programs").mkdir(parents=True)
    for words in commands("own-model.md"):
        if words[0] == "cp":
            shutil.copy(ROOT / words[1], folder / words[2])
        else:
            assert words[:4] == ["python", "-m", "orchestrator", "train"]
            check(words[4:], folder)
    sys.modules.pop("my_sequence", None)
    assert main(["data", "convert", "--from", "ratings", "ratings.dat", "joined"]) == 0
    (block,) = blocks("own-model.md", "python")
    names: dict[str, object] = {}
    exec(compile(block, "<docs>", "exec"), names)
    table = pq.read_table("joined/part-00000.parquet")
    shares = np.exp(names["log_share"].apply(table))  # pyright: ignore
    items = table["item"].to_pylist()
    assert shares[0] == pytest.approx(items.count(items[0]) / len(items), rel=1e-5)
