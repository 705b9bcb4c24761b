"""The commands of docs/data.md, run as they stand, and what ``data convert`` says."""

from __future__ import annotations

import filecmp
import gzip
import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import data_commands
from orchestrator.cli import main
from orchestrator.config_loading import load_config
from workers.data.dataset import open_dataset
from workers.data.files import files_of, filesystem_of
from workers.planning import check_inputs
from workers.program import load_program

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def criteo(rows: int) -> bytes:
    line = "1\t" + "\t".join(map(str, range(13))) + "\t" + "\t".join(f"{n:08x}" for n in range(26))
    return f"{line}\n".encode() * rows


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sources that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    for day in range(3):
        (tmp_path / f"day_{day}.gz").write_bytes(gzip.compress(criteo(40)))
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    (tmp_path / "sales.csv").write_text("zip,price\n01234,NA\n99,2.5\n")
    (tmp_path / "clicks").write_text("1\t2\t0\n3\t4\t1\n")
    return tmp_path


def test_the_page_does_what_it_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses, program = blocks("python")
    (folder / "criteo_ranker.py").write_text(program)
    monkeypatch.syspath_prepend(folder)
    commands = [
        shlex.split(line)[3:]
        for block in blocks("bash")
        for line in block.splitlines()
        if line.startswith("python -m orchestrator ")
    ]
    converting = [words for words in commands if words[0] == "data"]
    training = [words for words in commands if words[0] == "train"]
    assert (len(converting), len(training)) == (5, 2) and len(commands) == 7
    for words in converting:
        assert main(words) == 0
    for split, rows in (("train", 80), ("test", 40)):
        assert open_dataset("logs", split).rows == rows
    for data, columns in (
        ("ratings", ["user", "item", "rating", "timestamp", "label"]),
        ("sales", ["zip", "price"]),
        ("clicks-parquet", ["user", "item", "label"]),
    ):
        assert open_dataset(data, "train").schema.names == columns
        assert open_dataset(data, "train").rows == 2
    for words in training:
        config = load_config(None, words[1:])
        assert config.data is not None
        run = config.run_spec(config.data, str(folder))
        summary = check_inputs(load_program(config.program, config.parameters), run, config.hosts)
        assert (summary.rows, summary.test_rows) == (80, 40)
    assert run.quarantine == 1000
    part = folder / "logs" / "train" / "part-00000.parquet"
    (part.parent / "day=1").mkdir()
    part.rename(part.parent / "day=1" / part.name)
    patterns = re.findall(r"^\| `'(.*?)'`", PAGE, re.MULTILINE)
    assert [open_dataset(pattern, "train").rows for pattern in patterns] == [80, 80]
    for address in re.findall('data = "(.*?)"', addresses):
        assert filesystem_of(address)[1] == "bucket/logs"
    sys.modules.pop("criteo_ranker", None)


def test_exit_codes_and_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "convert", "--from"]
    assert main([*words, "criteo", "nowhere.gz", "out"]) == 2
    assert "error: source 'nowhere.gz' does not exist" in capsys.readouterr().err
    assert main([*words, "csv", "--types", "zip", "sales.csv", "out"]) == 2
    assert "--types: 'zip' is not COLUMN=TYPE" in capsys.readouterr().err
    assert main([*words, "csv", "--types", "price=int64", "sales.csv", "out"]) == 2
    assert "sales.csv', line 2, column 'price': " in capsys.readouterr().err
    quarantine = ["--types", "price=int64", "--quarantine", "2"]
    (folder / "sales.csv").write_text("zip,price\n01234,7\n99,2.5\n")
    assert main([*words, "csv", *quarantine, "sales.csv", "new"]) == 0
    said = capsys.readouterr().out
    assert f"1 rows in 1 files: {folder / 'new'}" in said
    assert f"1 bad lines are left out: {folder / 'new' / '_quarantine'}" in said
    assert main([*words, "csv", *quarantine, "sales.csv", "new"]) == 0
    assert "1 of them from before" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["data"])
    with pytest.raises(SystemExit, match="0"):
        main(["data", "convert", "--help"])


def test_a_killed_conversion_goes_on(folder: Path) -> None:
    """The process gets SIGKILL; the same command ends with the same files."""
    (folder / "big.tsv").write_bytes(criteo(60_000))
    words = ["data", "convert", "--from", "criteo", "--block-bytes", "20000", "--part-rows", "400"]
    process = subprocess.Popen([sys.executable, "-m", "orchestrator", *words, "big.tsv", "out"])
    manifest = folder / ".out.converting" / "_manifest.json"
    deadline = time.monotonic() + 60
    while not (manifest.exists() and len(json.loads(manifest.read_text())["parts"]) > 1):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "out").exists() and not files_of(str(folder), "train")[1]
    assert main([*words, "big.tsv", "out"]) == 0
    assert main([*words, "big.tsv", "whole"]) == 0
    parts = sorted(file.name for file in (folder / "whole").iterdir())
    assert sorted(file.name for file in (folder / "out").iterdir()) == parts
    assert filecmp.cmpfiles(folder / "out", folder / "whole", parts, shallow=False)[0] == parts


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_or_lines(
    terminal: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    monkeypatch.setattr(data_commands, "Console", lambda: console)
    monkeypatch.setattr(data_commands, "_SECONDS_BETWEEN_LINES", 0.0)
    words = ["data", "convert", "--from", "criteo", "--block-bytes", "1000", "day_0.gz", "out"]
    assert main(words) == 0
    file = console.file
    assert isinstance(file, io.StringIO)
    shown = file.getvalue()
    assert "40 rows, 0 files done" in shown and "100%" in shown
    assert ("\x1b[" in shown) == terminal
    assert "40 rows in 1 files" in shown
