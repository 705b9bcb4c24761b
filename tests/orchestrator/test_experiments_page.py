"""The files and commands of docs/experiments.md, as they stand; training itself is played."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.experiment import Experiment, ExperimentSettings
from orchestrator.experiment.rungs import rung_sizes, rung_steps
from orchestrator.experiment.settings import load_experiment
from orchestrator.experiment.space import config_of, settings_of
from workers.program import load_program

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "experiments.md").read_text()
COMMAND = str(Path(__file__).with_name("fake_training.py"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ExperimentSettings]:
    monkeypatch.chdir(tmp_path)
    found = {}
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        name = block.partition("\n")[0].removeprefix("# ")
        Path(name).write_text(block)
        found[name] = load_experiment(Path(name))
    return found


def test_the_files(files: dict[str, ExperimentSettings]) -> None:
    assert list(files) == ["widths.yaml", "random.yaml", "halving.yaml"]
    for settings in files.values():
        tried = settings_of(settings)
        assert len(tried) == (settings.samples or 2)
        for setting in tried:
            config = config_of(settings, setting, 0, rung_steps(settings.halving, len(tried), 0))
            load_program(config.program, config.parameters)
    halving = files["halving.yaml"].halving
    sizes = rung_sizes(halving, 18)
    steps = [(rung_steps(halving, 18, rung) or (0,))[0] for rung in range(len(sizes))]
    first, *others = zip(sizes, steps, strict=True)
    said = [f"{first[0]} settings with {first[1]}", *(f"{n} with {m}" for n, m in others)]
    assert ", ".join(said) in " ".join(PAGE.split())


def test_every_key_is_told_of() -> None:
    table = PAGE.partition("## The file")[2].partition("A range is")[0]
    missing = [key for key in ExperimentSettings.model_fields if f"`{key}`" not in table]
    assert missing == ["name"]


def test_the_commands(
    files: dict[str, ExperimentSettings], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def command(config: Path, run: Path) -> list[str]:
        return [sys.executable, COMMAND, str(config), str(run)]

    monkeypatch.setitem(Experiment.__init__.__kwdefaults__ or {}, "command", command)
    monkeypatch.setattr(Experiment, "_ray", lambda self, stack: (os.environ, {"CPU": 8.0}))
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL))
    commands = [shlex.split(line) for line in text.splitlines() if line.strip()]
    assert len(commands) == 3
    for words in commands:
        assert words[:3] == ["python", "-m", "orchestrator"]
        assert main(words[3:]) == 0
        assert "2 settings, 4 trials" in capsys.readouterr().out
    written = {path.name for path in Path("experiments/widths").iterdir()}
    told = re.findall(r"^\| (`.*?) \|", PAGE.partition("## What comes of it")[2], re.MULTILINE)
    named = {name.partition("/")[0] for cell in told for name in re.findall(r"`(.*?)`", cell)}
    assert written == named | {"lock"}
