import ast
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import orchestrator
from orchestrator import WrongPackageError, check_installation

ROOT = Path(orchestrator.__file__).parent


def test_every_public_name_can_be_had():
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Driven'"):
        orchestrator.Driven  # noqa: B018


def test_a_kernels_package_of_another_distribution_is_refused(monkeypatch):
    other = ModuleType("kernels")
    other.__file__ = "/elsewhere/kernels/__init__.py"
    monkeypatch.setitem(sys.modules, "kernels", other)
    with pytest.raises(WrongPackageError, match="'kernels' at /elsewhere/kernels"):
        check_installation()


def test_the_command_line_says_in_one_line_that_another_kernels_package_hides_ours(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    paths = [str(tmp_path), *filter(None, sys.path), str(ROOT.parent)]
    # Without the start-up files of site-packages: one of them puts an editable installation first.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "orchestrator", "train", "max_steps=1"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the package 'kernels' at {tmp_path}/kernels")
    assert done.stderr.count("\n") == 1


def imports_at_module_level(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_only_the_ray_hosts_import_ray_when_they_are_imported():
    importers = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if any(name.split(".")[0] == "ray" for name in imports_at_module_level(path))
    }
    hosts = ("ray_hosts", "slice_hosts", "gang_hosts", "ray_actor")
    others = ("processes", "outside_stacks", "node_probes")
    assert importers == {f"hosts/{name}.py" for name in (*hosts, *others)}


def test_every_module_names_its_public_surface():
    for path in ROOT.rglob("*.py"):
        if path.name == "__main__.py":
            continue
        tree = ast.parse(path.read_text())
        public = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        }
        (names,) = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        ]
        assert public <= set(names), path
