"""Every public name of jax-tpu-embedding 0.2.0 is here; the migration page says what differs."""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import re
import types
import typing
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"

MODULES = {
    "lib.nn.embedding": "kernels.embedding",
    "lib.nn.embedding_spec": "kernels.embedding_spec",
    "lib.nn.table_stacking": "kernels.table_stacking",
    "lib.flax.linen.embed": "kernels.layers.linen",
    "lib.flax.linen.embed_optimizer": "kernels.layers.embed_optimizer",
    "lib.flax.nnx.embed": "kernels.layers.nnx",
    "lib.flax.nnx.checkpoint_utils": "kernels.layers.checkpoint_utils",
    "lib.fdo.fdo_client": "kernels.fdo.fdo_client",
    "lib.fdo.file_fdo_client": "kernels.fdo.file_fdo_client",
    "lib.fdo.csv_file_fdo_client": "kernels.fdo.csv_file_fdo_client",
    "utils.utils": "kernels.utils",
}
"""Ours by theirs. The pipelining module is not in the wheel: see `PIPELINING`."""

PIPELINING = {
    "CurrentStepInput": "sparse_inputs, dense_inputs",
    "LastStepInput": "sparse_inputs, embedding_activations, dense_inputs, sc_fwd_aux",
    "StepBeforeLastStepInput": "sparse_inputs, embedding_gradients, tc_aux",
    "PipelineState": (
        "pipeline_step, last_step_inputs, step_before_last_step_inputs, placeholder_output, "
        "placeholder_tc_aux"
    ),
    "get_pipeline_train_steps": "num_steps",
    "is_output_valid": "pipeline_step, num_steps",
    "get_default_sc_fwd_function": "feature_specs, global_mesh, num_sc_per_device=None",
    "get_default_sc_bwd_function": "feature_specs, global_mesh, num_sc_per_device=None",
    "get_pipeline_state_sharding": (
        "pipeline_state_cls, dense_input_sharding, sparse_input_sharding, "
        "pipeline_output_sharding, tc_aux_sharding"
    ),
    "get_initial_state": (
        "pipeline_input, tc_train_state, embedding_variables, sc_fwd_function, tc_function, "
        "dense_input_sharding=None, sparse_input_sharding=None"
    ),
    "step": (
        "pipeline_input, tc_train_state, embedding_variables, pipeline_state, sc_fwd_function, "
        "tc_function, sc_bwd_function, *, fake_tc_step"
    ),
}
"""Parameters in the repository of jax-tpu-embedding, and ``num_sc_per_device``, which is ours."""


def theirs(module: str) -> types.ModuleType:
    return importlib.import_module(f"jax_tpu_embedding.sparsecore.{module}")


def is_api(name: str, value: object) -> bool:
    """Whether a name of a module is meant for its users."""
    helper = isinstance(value, types.ModuleType | typing.TypeVar)
    imported = any(value is getattr(home, name, None) for home in (typing, collections.abc))
    return not (name.startswith("_") or helper or imported or name == "annotations")


def names_of(module: str) -> dict[str, object]:
    return {name: value for name, value in vars(theirs(module)).items() if is_api(name, value)}


def parameters(value: object) -> dict[str, tuple[str, str]] | None:
    """Kind and default of every parameter, or None if ``value`` is no class or function."""
    if typing.get_origin(value) is not None or isinstance(value, typing.TypeAliasType):
        return None
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    result = {}
    for p in signature.parameters.values():
        kind = p.kind.name.lower().replace("_", " ")
        any_number = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        result[kind if any_number else p.name] = (kind, shown(p.default))
    return result


def shown(default: object) -> str:
    if default is inspect.Parameter.empty:
        return "none"
    if inspect.isfunction(default):
        return default.__name__
    return getattr(default, "__name__", None) or repr(default)


def differences(mine: object, other: object) -> set[str]:
    """What differs between two functions or classes, in the words of the migration page."""
    have, want = parameters(mine), parameters(other)
    if want is None:
        return set()
    if have is None:
        return {"cannot be called"}
    found = {f"adds `{name}`" for name in have.keys() - want.keys()}
    found |= {f"lacks `{name}`" for name in want.keys() - have.keys()}
    for name in have.keys() & want.keys():
        for what, here, there in zip(("kind", "default"), have[name], want[name], strict=True):
            if here != there:
                found.add(f"{what} of `{name}` is {here}, not {there}")
    both = [name for name in want if name in have]
    if both != [name for name in have if name in want]:
        found.add("order of parameters")
    return found


def members(kind: type) -> dict[str, object]:
    """Public methods and properties that a class adds to its base classes."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property | classmethod))
        and not any(hasattr(base, name) for base in kind.__bases__)
    }


def member_differences(mine: type, other: type) -> set[str]:
    found: set[str] = set()
    for name, value in members(other).items():
        if not hasattr(mine, name):
            found.add(f"lacks member `{name}`")
        elif not isinstance(value, property):
            inner = differences(getattr(mine, name), getattr(other, name))
            found |= {f"member `{name}` {words}" for words in inner}
    return found


def defined_elsewhere(other: object, module: str) -> bool:
    """Whether a name is an alias of one in another of the modules, where it is compared."""
    home = getattr(other, "__module__", "")
    return home != theirs(module).__name__ and any(home == theirs(m).__name__ for m in MODULES)


def actual_differences() -> dict[str, set[str]]:
    result: dict[str, set[str]] = {}
    for module, ours in MODULES.items():
        home = importlib.import_module(ours)
        for name, other in names_of(module).items():
            where = f"{ours.removeprefix('kernels.')}.{name}"
            if not hasattr(home, name):
                found = {"left out"}
            elif defined_elsewhere(other, module):
                continue
            else:
                found = differences(getattr(home, name), other)
                if isinstance(other, type) and isinstance(getattr(home, name), type):
                    found |= member_differences(getattr(home, name), other)
            if found:
                result[where] = found
    return result


def section(title: str) -> str:
    text = PAGE.read_text()
    match = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"docs/migration.md has no section '{title}'"
    return match[1]


def page_differences() -> dict[str, set[str]]:
    """The table of the page: `name` | what; what | why."""
    result: dict[str, set[str]] = {}
    for line in section("What differs").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and re.fullmatch(r"`[\w.]+`", cells[0]):
            assert len(cells[2]) > 15, f"{cells[0]}: say why"
            result[cells[0].strip("`")] = {part.strip() for part in cells[1].split(";")}
    return result


def test_the_page_lists_exactly_what_differs():
    assert page_differences() == actual_differences()


@pytest.mark.parametrize(("module", "ours"), MODULES.items(), ids=MODULES.values())
def test_the_page_lists_every_name(module: str, ours: str):
    text = section(f"`{ours}`")
    missing = [name for name in names_of(module) if f"`{name}`" not in text]
    assert not missing


@pytest.mark.parametrize("ours", [*MODULES.values(), "kernels.pipelining"])
def test_names_are_defined_where_the_page_says(ours: str):
    rows = re.findall(r"^\| (`.*`) \| `([\w/]+)\.py` \|$", section(f"`{ours}`"), re.MULTILINE)
    assert rows
    for names, file in rows:
        home = importlib.import_module(file.replace("/", "."))
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(ours), name), name
            if file != "kernels/planning/auto_stacking":  # two functions go by one name there
                assert hasattr(home, name), f"{name} is not in {file}.py"


def test_names_are_in_the_modules_public_surface():
    for module, ours in MODULES.items():
        home = importlib.import_module(ours)
        present = {name for name in names_of(module) if hasattr(home, name)}
        assert present <= set(home.__all__), ours


@pytest.mark.parametrize("name", PIPELINING)
def test_pipelining_has_the_parameters_of_the_repository(name: str):
    pipelining = importlib.import_module("kernels.pipelining")
    signature = inspect.signature(getattr(pipelining, name))
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    plain = str(inspect.Signature(bare)).strip("()")
    assert plain == PIPELINING[name]
    assert f"`{name}`" in section("`kernels.pipelining`")


def test_pipelining_names_are_listed():
    pipelining = importlib.import_module("kernels.pipelining")
    text = section("`kernels.pipelining`")
    assert [name for name in pipelining.__all__ if f"`{name}`" not in text] == []
