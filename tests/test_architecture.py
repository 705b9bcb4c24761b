"""The walls of the building: who imports whom, what is public, how large a file may be."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("kernels", "workers", "orchestrator")
MOST_LINES = 400

ONLY = {
    "ray": {"orchestrator"},
    "pyarrow": {"workers"},
    "orbax": {"workers", "kernels/layers/checkpoint"},
    "tensorstore": {"workers"},
}
"""Libraries only some floors may touch, or files whose paths begin so."""

NEVER = {"jax_tpu_embedding", "pandas", "torch", "tensorflow"}
"""Libraries no floor may touch: they are rivals, or come only with something else."""


def sources() -> list[Path]:
    return [file for floor in FLOORS for file in sorted((ROOT / floor).rglob("*.py"))]


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Every module a file imports, wherever in it, with the line."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are written in full"
            yield str(node.module), node.lineno


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down_and_libraries_stay_on_their_floor(file: Path) -> None:
    floor = file.relative_to(ROOT).parts[0]
    above = FLOORS[FLOORS.index(floor) + 1 :]
    for module, line in imports(file):
        top = module.partition(".")[0]
        where = f"{file.relative_to(ROOT)}:{line}"
        assert top not in above, f"{where}: {floor} must not import {module}"
        assert top not in NEVER, f"{where}: nothing of ours may import {module}"
        if top in ONLY:
            allowed = any(where.startswith(place) for place in ONLY[top])
            assert allowed, f"{where}: only {sorted(ONLY[top])} may import {module}"


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_names_its_public_surface(floor: str) -> None:
    package = importlib.import_module(floor)
    assert package.__all__ == sorted(set(package.__all__), key=package.__all__.index)
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert not name.startswith("_")


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_small_and_say_what_they_are(file: Path) -> None:
    text = file.read_text()
    assert text.count("\n") <= MOST_LINES, "a concept in here wants a file of its own"
    assert ast.get_docstring(ast.parse(text)), "a file says what it is for"
    unfinished = re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", text)
    assert not unfinished, f"unfinished: {unfinished}"


def test_modules_name_what_is_public() -> None:
    """Every module with public names lists them in ``__all__``, and every one listed exists."""
    for file in sources():
        if file.name in ("__init__.py", "__main__.py"):
            continue
        module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        assert getattr(module, "__all__", None), f"{file.relative_to(ROOT)} has no __all__"
        for name in module.__all__:
            assert hasattr(module, name), f"{file.relative_to(ROOT)}: no {name}"


def test_what_is_imported_is_public() -> None:
    """Between files of ours, nothing is imported that its module does not list in ``__all__``."""
    for file in [*sources(), *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or str(node.module).split(".")[0] not in FLOORS:
                continue
            module = importlib.import_module(str(node.module))
            package = hasattr(module, "__path__")
            for name in (alias.name for alias in node.names):
                if package and importlib.util.find_spec(f"{node.module}.{name}"):
                    continue
                where = f"{file.relative_to(ROOT)}:{node.lineno}"
                assert name in module.__all__, f"{where}: {node.module} has no {name} in __all__"


def test_the_lock_file_stays_out() -> None:
    """It names where packages come from, which is the installer's affair."""
    tracked = subprocess.run(
        ["git", "ls-files", "uv.lock"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not tracked.stdout
    assert "uv.lock" in (ROOT / ".gitignore").read_text().splitlines()
