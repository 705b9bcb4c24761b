"""Secrets of a run are in none of the files that it leaves, and are asked for when it goes on."""

import sys
from pathlib import Path

import pytest
from driving import SETTINGS, fit, simulation

from orchestrator import cli
from orchestrator.config_loading import load_config, parse_override
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, RunFailed, RunFolderError
from orchestrator.hidden_output import hidden_output
from orchestrator.hosts.faults import Fault, ScriptedFaults
from workers.redaction import HIDDEN

__all__ = ["simulation"]

KEY, PASSWORD, VARIABLE = "sword-fish-4711", "p%40ss-wörd", "env-1234567890"
PARAMETERS = {"width": 8, "api_key": KEY, "database": {"password": "x"}}
DATA = f"s3://user:{PASSWORD}@bucket/logs"


def everything_in(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 5
    return {path.name: path.read_bytes() for path in files}


def assert_clean(folder):
    for name, content in everything_in(folder).items():
        for secret in (KEY, PASSWORD, VARIABLE, "p@ss-wörd"):
            assert secret.encode() not in content, name


def test_no_file_of_a_run_holds_a_secret(simulation, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SOME_API_TOKEN", VARIABLE)
    # The command is among what is written down of a run.
    monkeypatch.setattr("sys.orig_argv", ["python", "train.py", f"parameters.api_key={KEY}"])
    said = f"refused {KEY} and {VARIABLE} at {DATA}, that is with p@ss-wörd"

    simulation.faults = ScriptedFaults([Fault("die", 1, step=45, times=99)])
    monkeypatch.setattr(
        "orchestrator.hosts.simulated.SimulatedHosts.last_words", lambda self, rank: said
    )
    folder = tmp_path / "run"
    settings = {"parameters": PARAMETERS, "data": DATA, "failures": {"max_restarts": 0}}
    with (
        pytest.raises(RunFailed, match=KEY),  # the caller's own exception is as it was
        Driver(SETTINGS | settings, folder) as driver,
    ):
        driver.fit()
    assert_clean(folder)
    files = everything_in(folder)
    assert (
        f"refused {HIDDEN} and {HIDDEN} at s3://{HIDDEN}@bucket/logs".encode()
        in (files["summary.json"])
    )
    assert KEY not in capsys.readouterr().out

    # What was left out has to be given again, by its name; all else is there.
    assert cli.main(["train", "--resume", "--run-dir", str(folder)]) == 2
    assert "give them again, as parameters.api_key=… " in capsys.readouterr().err
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    assert "train --resume --run-dir runs/a parameters.api_key=…" in page
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "config.yaml")
    assert str(caught.value) == (
        f"{folder / 'config.yaml'} does not hold parameters.api_key, parameters.database.password, "
        "data, as secrets are not written down: give them again, as parameters.api_key=… "
        "parameters.database.password=… data=…"
    )
    given = [f"parameters.api_key={KEY}", "parameters.database.password=x", f"data={DATA}"]
    again = load_config(folder / "config.yaml", given)
    assert again.parameters == PARAMETERS
    assert parse_override(given[0]) == (("parameters", "api_key"), KEY)
    simulation.faults = None
    with Driver(again, folder, resume=True, quiet=True) as driver:
        assert driver.fit().status == "finished"
    assert_clean(folder)


def test_another_secret_is_no_other_run(simulation, tmp_path):
    folder = tmp_path / "run"
    fit(folder, max_steps=30, parameters={"api_key": "one-key-4711"})
    assert fit(folder, resume=True, parameters={"api_key": "another-key"}).status == "finished"
    with pytest.raises(RunFolderError, match=r"parameters\.width was None and is now 1"):
        fit(folder, resume=True, max_steps=40, parameters={"api_key": "another-key", "width": 1})


PROGRAM = """
def program(api_key, note=None, total_steps=1):
    print("I was given", api_key)
    raise ValueError(f"refused {api_key} {note}")
"""


@pytest.mark.parametrize("command", ["train", "plan"])
def test_no_secret_is_printed(command, tmp_path, monkeypatch, capsys):
    """A job's log is what its command prints, errors and the program's own words among it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "secretive.py").write_text(PROGRAM)
    (tmp_path / "run.yaml").write_text(f"parameters: {{note: {{password: {PASSWORD}}}}}\n")
    words = ["program=secretive:program", f"parameters.api_key={KEY}", f"data={DATA}"]
    assert cli.main([command, "run.yaml", *words]) == 2
    printed = capsys.readouterr()
    for secret in (KEY, PASSWORD):
        assert secret not in printed.out + printed.err
    assert f"I was given {HIDDEN}" in printed.out
    assert f"refused {HIDDEN} {{'password': '{HIDDEN}'}}" in printed.err
    # A mistake in the very value.
    assert cli.main([command, "parameters.api_key=[half-a-list"]) == 2
    assert "half-a-list" not in capsys.readouterr().err


def test_no_secret_is_in_the_traceback_of_an_error_that_nobody_expected(monkeypatch, capsys):
    monkeypatch.setattr("sys.excepthook", sys.excepthook)  # put back at the end
    before = sys.excepthook
    with hidden_output([f"parameters.api_key={KEY}"]):
        pass
    assert sys.excepthook is before
    with (
        pytest.raises(RuntimeError) as caught,
        hidden_output([f"parameters.api_key={KEY}"]),
    ):
        raise RuntimeError(f"with {KEY}")
    sys.excepthook(*caught._excinfo)  # as Python does where nobody catches it
    printed = capsys.readouterr().err
    assert f"RuntimeError: with {HIDDEN}" in printed
    assert KEY not in printed
