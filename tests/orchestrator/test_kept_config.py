"""What a run's folder may not hold is asked for by every command that needs it, and taken."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.cli import main
from orchestrator.config_loading import load_config, make_config
from orchestrator.errors import ConfigError
from orchestrator.kept_config import KeptConfig
from workers.redaction import Redactor

SETTINGS = {
    "program": "a:b",
    "data": "s3://KEY:SECRET@bucket/logs",
    "parameters": {
        "api_key": "swordfish",
        "credentials": {"user": "me-myself", "password": "hunter22"},
        "lookup": "https://me:hunter22@host/rows",
        "sources": [{"url": "x", "token": "sesame-sesame"}],
        "width": 8,
    },
}
HIDDEN = (
    *("parameters.api_key", "parameters.credentials.user", "parameters.credentials.password"),
    *("parameters.lookup", "parameters.sources", "data"),
)
WORDS = [
    "parameters.api_key=swordfish",
    "parameters.credentials.user=me-myself",
    "parameters.credentials.password=hunter22",
    "parameters.lookup=https://me:hunter22@host/rows",
    "parameters.sources=[{url: x, token: sesame-sesame}]",
    "data=s3://KEY:SECRET@bucket/logs",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with nothing but its configuration, without secrets."""
    config = make_config(SETTINGS)
    (tmp_path / "config.yaml").write_text(config.to_yaml(Redactor.of(SETTINGS).values))
    return tmp_path


def test_what_is_hidden_is_known_by_its_key(folder: Path) -> None:
    kept = KeptConfig.of(folder)
    assert sorted(kept.hidden) == sorted(HIDDEN)
    assert all(map(kept.lacks, WORDS))
    assert kept.lacks("parameters.other_token=new"), "a secret, though the run had none"
    for word in ("parameters.width=9", "parameters={}", "seed=1", "step=best"):
        assert not kept.lacks(word)


def test_given_again_it_is_whole(folder: Path) -> None:
    assert KeptConfig.of(folder).given_again(WORDS) == make_config(SETTINGS)
    assert load_config(folder / "config.yaml", WORDS) == make_config(SETTINGS)


def test_nothing_else_can_be_given(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'parameters\.width' cannot be set here"):
        KeptConfig.of(folder).given_again([*WORDS, "parameters.width=9"])
    with pytest.raises(ConfigError, match="not of the form key=value"):
        KeptConfig.of(folder).given_again(["width"])


COMMANDS = {
    "tables describe": [],
    "tables neighbours": ["--table", "user", "--id", "1"],
    "tables export": ["out"],
    "tables tensorboard": ["--most", "5"],
    "predict": ["out=made"],
    "export": ["out"],
}
"""All commands that read a run's folder, with words that they need; but for ``report``, which
shows what there is."""


def test_these_are_all_commands_of_a_run() -> None:
    def leaves(parser: argparse.ArgumentParser, name: str = "") -> dict[str, list[str]]:
        below = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
        if not below:
            return {name.strip(): [action.dest for action in parser._actions]}
        found = {}
        for word, command in below[0].choices.items():
            found |= leaves(command, f"{name} {word}")
        return found

    reading = {name for name, dests in leaves(cli._parsers()[0]).items() if "run_folder" in dests}
    assert reading == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_which_are_missing_and_takes_them(
    command: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    words = [*command.split(), str(folder), *COMMANDS[command]]
    assert main(words) == 2
    said = capsys.readouterr().err
    for name in HIDDEN:
        assert f" {name}=…" in said
    assert "does not hold" in said and "give them again, as" in said
    assert main([*words, *WORDS[1:]]) == 2
    said = capsys.readouterr().err
    assert "does not hold parameters.api_key, as secrets are not written down: give it " in said
    assert said.rstrip().endswith("give it again, as parameters.api_key=…")
    # With all of them it comes as far as the program, which there is none.
    assert main([*words, *WORDS]) == 2
    assert "no module 'a'" in capsys.readouterr().err
