"""What is read from files is data: nothing of it is unpickled, or run as code."""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("kernels", "workers", "orchestrator")

LOADERS = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
    *("torch", "pandas"),
}
"""Modules that can run what a file says."""
CALLS = {"eval", "exec", "compile", "unsafe_load", "full_load", "load_all", "deserialize_and_load"}
ALLOWED = {
    "workers/compiled_steps.py": {"pickle", "deserialize_and_load"},
    "orchestrator/hosts/host_actor.py": {"pickle"},
}
"""Where, and what. The first reads what it has authenticated, as its own test shows; the second
what it has pickled a moment before, to see whether that can be done."""


NAMED = re.compile(rf"\b({'|'.join([*LOADERS, 'yaml', 'allow_pickle'])})\b|\b({'|'.join(CALLS)})\(")


def dangers(text: str) -> Iterator[tuple[str, int]]:
    """Names of what may run a file's content, with their lines."""
    if not NAMED.search(text):  # which is the most of them
        return
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                found = [name.name.partition(".")[0] for name in names]
                yield from ((name, node.lineno) for name in found if name in LOADERS)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in LOADERS:
                yield module.partition(".")[0], node.lineno
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in CALLS:
                method = isinstance(node.func, ast.Attribute)
                if not (method and name == "compile"):  # of regular expressions, and of JAX
                    yield name, node.lineno
            case ast.Call(func=ast.Attribute(value=ast.Name(id="yaml"), attr="load")):
                loaders = [ast.unparse(k.value) for k in node.keywords if k.arg == "Loader"]
                if loaders != ["_Loader"]:
                    yield "yaml.load", node.lineno
            case ast.keyword(arg="allow_pickle", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield "allow_pickle", value.lineno


@pytest.mark.parametrize("floor", FLOORS)
def test_nothing_that_is_read_is_run(floor: str) -> None:
    for file in sorted((ROOT / floor).rglob("*.py")):
        where = str(file.relative_to(ROOT))
        for name, line in dangers(file.read_text()):
            assert name in ALLOWED.get(where, set()), (
                f"{where}:{line}: {name} may run what it reads"
            )


def test_the_one_loader_of_yaml_makes_plain_values_only() -> None:
    import yaml

    from orchestrator.plain_yaml import _Loader, read_yaml

    assert issubclass(_Loader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        read_yaml("!!python/object/apply:os.mkdir [x]")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from joblib import load", "joblib"),
        ("np.load(file, allow_pickle=True)", "allow_pickle"),
        ("np.load(file, allow_pickle=flag)", "allow_pickle"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("yaml.load(text)", "yaml.load"),
        ("yaml.unsafe_load(text)", "unsafe_load"),
        ("eval(text)", "eval"),
        ("builtins.exec(text)", "exec"),
        ("np.load(file, allow_pickle=False); re.compile('a')", None),
    ],
)
def test_the_look_finds_what_it_should(text: str, found: str | None) -> None:
    assert [name for name, _ in dangers(text)] == ([found] if found else [])


_unpickled: list[str] = []
_listening = [False]


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _listening[0] and event == "pickle.find_class":
        _unpickled.append(".".join(map(str, arguments)))


@contextlib.contextmanager
def unpickled() -> Iterator[list[str]]:
    """Every class or function that any unpickler looks up meanwhile, in whatever library."""
    if _listen not in _hooked:
        sys.addaudithook(_listen)  # it can never be taken away again
        _hooked.append(_listen)
    _unpickled.clear()
    _listening[0] = True
    try:
        yield _unpickled
    finally:
        _listening[0] = False


_hooked: list[object] = []


def test_the_hook_hears_an_unpickler() -> None:
    import pickle

    with unpickled() as heard:
        assert pickle.loads(pickle.dumps(Path)) is Path
    assert heard
    with unpickled() as heard:
        pass
    assert not heard


def test_a_checkpoint_is_restored_without_unpickling(tmp_path: Path) -> None:
    from tests.workers.test_relayout import features, like, plan_of, state_of
    from workers.checkpoint import About, Checkpoints, read_checkpoint

    specs = features((600, 20))
    plan = plan_of(specs, 2, 1, True)
    state = state_of(plan, specs, 3)
    checkpoints = Checkpoints(tmp_path, About(plan, "program"))
    checkpoints.save(3, state)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, About(plan, "program"))
    with unpickled() as heard:
        restored = checkpoints.restore(3, like(state), lambda: state)
        read_checkpoint(tmp_path, 3)
    checkpoints.close()
    assert int(restored.step) == 3
    assert not heard, heard


class Planted:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_data_is_read_without_unpickling(tmp_path: Path) -> None:
    """A column of a type that older versions of Arrow would have unpickled from the file."""
    import pickle

    import pyarrow as pa
    import pyarrow.parquet as pq

    from workers.data.dataset import open_dataset, read_columns

    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Planted()),
    }
    schema = pa.schema([pa.field("id", pa.int64(), metadata=metadata)])
    (tmp_path / "train").mkdir()
    pq.write_table(pa.table({"id": [1, 2]}, schema=schema), tmp_path / "train" / "part-0.parquet")
    with unpickled() as heard:
        dataset = open_dataset(tmp_path, "train")
        table = read_columns(dataset.row_groups[0], ["id"])
    assert table.column("id").to_pylist() == [1, 2]
    assert not heard, heard
