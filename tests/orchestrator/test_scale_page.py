"""The commands of docs/scale.md: they are taken as they are written, and small sizes run."""

from __future__ import annotations

import argparse
import importlib
import pickle
import re
import shlex
import sys
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.light_host import LightHost, lease_done
from orchestrator.hosts.host_actor import HostLike
from workers import protocol

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text()


def commands() -> list[list[str]]:
    """What the page says to run, in words."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


class Parsed(Exception):
    """The arguments were taken."""


def test_benchmarks_take_the_arguments_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    named = [words for words in commands() if words[0] == "python"]
    for _, _, module, *arguments in named:
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(Parsed):
            importlib.import_module(module).main()
    modules = {words[2] for words in named}
    assert modules == {"benchmarks.controller", "benchmarks.scale", "benchmarks.ray_actors"}


def test_the_long_simulation_is_there() -> None:
    (words,) = [words for words in commands() if "pytest" in words]
    file = words[words.index("pytest") + 1]
    text = (ROOT / file).read_text()
    for setting in words[: words.index("pytest")]:
        assert f'"{setting.partition("=")[0]}"' in text
    assert re.search(rf"def test_\w*{words[-1]}", text)


@pytest.mark.parametrize("part", scale.PARTS)
def test_a_few_hosts_are_measured(part: str, tmp_path: Path) -> None:
    header, _, *rows = scale.table(part, [2, 3], tmp_path).splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| 2", "| 3"]
    columns = [name.strip() for name in header.strip("|").split("|")]
    assert f"| {' | '.join(columns)} |" in PAGE, "the page has another table"
    assert not list(tmp_path.iterdir())


def test_a_light_host_answers_as_a_host_does() -> None:
    run = protocol.RunSpec("p:p", {}, "data", "folder", 8, 1, 0, 1)
    host: HostLike = LightHost(run, protocol.Assignment(1, 4, 0), "127.0.0.1")  # pyright: ignore
    assert (host.hello().rank, host.pulse().rank) == (1, 1)
    lease = protocol.RunLease(protocol.Lease(0, "plan", 0, 1))
    assert host.execute(lease) == lease_done(1, 4)
    # Most of a report is its counts: the more hosts, the fewer samples each has.
    sizes = [len(pickle.dumps(lease_done(0, hosts))) for hosts in (4, 400, 4000)]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(KeyError):
        host.execute(protocol.Finish())
