"""The documentation: its site is built without a warning, and all commands on its pages parse."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import pydoc
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from orchestrator import cli
from orchestrator.config import RunConfig
from orchestrator.config_loading import load_config
from orchestrator.predict_settings import predict_settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PACKAGES = ("kernels", "kernels.fdo", "workers", "orchestrator")
PACKAGES += ("orchestrator.experiment", "orchestrator.report")
COMMAND = re.compile(r"(?<!`)python -m (orchestrator|benchmarks\.\w+)([^`\n]*)")
FOLDERS = "kernels|workers|orchestrator|tests|benchmarks|tools|cluster_configs|docs"
WITH_SETTINGS = {"train", "compile", "plan", "doctor"}
"""Commands that take the settings of a run, in any order with flags."""


def settings_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield before + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{before}{name}.")


SETTINGS = set(settings_of(RunConfig))
SECTIONS = {name.split(".")[0] for name in SETTINGS if "." in name}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_reference_has_every_public_name(site: Path) -> None:
    """Each by the name it is imported by; what is on the pages stands in the inventory."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    there = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    public = {
        f"{package}.{name}"
        for package in PACKAGES
        for name in importlib.import_module(package).__all__
    }
    assert len(public) > 100 and public <= there, public - there
    shown = (site / "reference" / "tables.html").read_text()
    assert "ids run from 0 to" in shown and "vocabulary_size: int" in re.sub("<.*?>", "", shown)


def test_links_to_the_source_lead_to_copies(site: Path) -> None:
    page = (site / "plan.html").read_text()
    assert 'href="source/orchestrator/step_time.py.html"' in page
    assert "def step_time" in re.sub(
        "<.*?>", "", (site / "source/orchestrator/step_time.py.html").read_text()
    )
    copy = site / "source" / "cluster_configs" / "grafana" / "emberay.json"
    assert copy.read_bytes() == (ROOT / copy.relative_to(site / "source")).read_bytes()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"([^\"]+)", text)
        loaded += re.findall(
            r"<link[^>]+rel=\"(?:stylesheet|icon|preload)\"[^>]+href=\"([^\"]+)", text
        )
        assert not [place for place in loaded if "//" in place], page.name


def test_lists_are_lists_on_the_site_too(site: Path) -> None:
    """mkdocs wants what belongs to an item to be indented by four."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
            lost = re.search(r"\n\s*(?:[-*] |\d+\. |\|)|```", paragraph)
            assert lost is None, f"{page.name}: {paragraph[:200]}"


def words_of(rest: str) -> list[str]:
    """The words of a command in a page, up to a pipe, a redirection, a remark or a gap."""
    rest = re.split(r" # |\s{3}", rest.strip())[0]
    if rest.count("'") % 2:  # the end of a quoted command
        rest = rest.rstrip("'")
    words = shlex.split(rest)
    ends = [place for place, word in enumerate(words) if word in (">", "|", "&", "&&")]
    return words[: min(ends, default=len(words))]


def commands_of(page: Path) -> list[tuple[str, list[str]]]:
    """Module and words of every command in a block, but for those that are left open with "…"."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    return [
        (found[1], words_of(found[2])) for found in COMMAND.finditer(text) if "…" not in found[2]
    ]


def parse(words: list[str], tmp_path: Path) -> None:
    parser = cli._parsers()[0]
    if words[0] not in WITH_SETTINGS:
        options = parser.parse_args(words)
        if words[0] == "predict":
            (tmp_path / "config.yaml").write_text("epochs: 1\n")
            predict_settings(tmp_path, options.settings)
        return
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    options = commands.choices[words[0]].parse_intermixed_args(words[1:])
    files = [word for word in options.settings if "=" not in word]
    assert len(files) <= 1
    # Files that the pages make up are not there.
    file = next((ROOT / name for name in files if (ROOT / name).is_file()), None)
    assert file is not None or not any(name.startswith("cluster_configs") for name in files)
    load_config(file, [word for word in options.settings if "=" in word])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_parse(page: Path, tmp_path: Path) -> None:
    for module, words in commands_of(page):
        if module != "orchestrator":
            assert importlib.util.find_spec(module), f"there is no {module}"
        elif words[-1:] == ["--help"]:
            with pytest.raises(SystemExit, match="0"):
                cli.main(words)
        elif words:
            parse(words, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for found in re.findall(rf"(?<![\w/.~-])((?:{FOLDERS})/[\w/.*-]+)", text):
        assert list(ROOT.glob(found.rstrip("./"))), found
    for found in re.findall(rf"\b(?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)?\b", text):
        assert found in SETTINGS or found.endswith((".py", ".md", ".yaml", ".jsonl")), found
    for found in re.findall(r"`((?:kernels|workers|orchestrator)(?:\.\w+)+)(?:\(|`)", text):
        pydoc.locate(found) or pytest.fail(f"there is no {found}")


def test_commands_are_found() -> None:
    found = [words[0] for page in PAGES for _, words in commands_of(page) if words]
    assert len(found) > 70
    assert {"train", "plan", "compile", "doctor", "data", "tables", "report"} <= set(found)
    assert {"predict", "export"} <= set(found)
