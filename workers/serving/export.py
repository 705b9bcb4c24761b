"""Writes the folder that a model is served from.

    model.jax_export            lookup and model as one function: see ``workers.serving.function``
    tables.safetensors          every table under its name, row ``id`` of it for the id
    parameters.safetensors      the model's parameters
    transforms.safetensors      hashes of vocabularies, and counts
    serving.json                what there is: functions, features, columns, tables
    serve.py  README.md         loads it and predicts; how to use it
    vendor/                     what jax.export reads a function with, if it is not installed

All of it can be read with jax and numpy alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import jax
import numpy as np

from workers.errors import DataError
from workers.program import Program
from workers.safetensors import Stored, write_safetensors
from workers.saved_tables import SavedTables
from workers.scoring import abstract_parameters, columns_of, scoring_method
from workers.serving import serve
from workers.serving.function import PLATFORMS, export_function
from workers.serving.readme import readme
from workers.serving.transforms import as_data

__all__ = ["export_serving"]

_FORMAT = 1


def export_serving(
    program: Program,
    saved: SavedTables,
    output: str | Path,
    *,
    methods: Sequence[str] = (),
    batch: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> Path:
    """Write a new folder, which is there whole or not at all.

    Memory: the model, and one table at a time.

    Args:
        program: What was trained.
        saved: The checkpoint.
        output: The folder.
        methods: Methods of the model, each of which becomes a function; the program's choice by
            default.
        batch: Samples of a batch; None leaves it open.
        columns: Types of the data's columns by name, as far as they are known.

    Raises:
        DataError: The folder is there.
        CheckpointError: Something of the checkpoint cannot be read.
        ProgramError: The model has no such method, or cannot be exported.
    """
    target = Path(output).absolute()
    if target.exists():
        raise DataError(f"output '{output}' exists already: remove it, or name another folder")
    chosen = [scoring_method(program, method) for method in methods or (None,)]
    saved.verify()
    parameters = saved.parameters(abstract_parameters(program))
    names, leaves = _named(parameters)
    used = {feature.table for feature in program.features}
    tables = {
        table.name: Stored(
            saved.dtype(table.name),
            (table.vocabulary_size, table.embedding_dim),
            lambda name=table.name: saved.rows(name),
        )
        for table in program.tables
        if table.name in used
    }
    types = {name: stored.dtype for name, stored in tables.items()}
    functions = {
        "model" if method == "__call__" else method: (
            method,
            export_function(program, method, types, parameters, names, batch),
        )
        for method in chosen
    }
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {
        "format": _FORMAT,
        "program": program.name,
        "fingerprint": program.fingerprint(),
        "step": saved.step,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
        "batch": batch,
        "functions": {
            name: {"file": f"{name}.jax_export", "columns": list(columns_of(method))}
            for name, (method, _) in functions.items()
        },
        "features": _features(program, arrays),
        "dense": _dense(program, arrays),
        "columns": {
            name: (columns or {}).get(name)
            for name in sorted(program.schema.columns - {program.label})
        },
        "tables": {
            name: {"rows": stored.shape[0], "width": stored.shape[1], "dtype": stored.dtype.name}
            for name, stored in tables.items()
        },
    }
    draft = target.with_name(f".{target.name}.exporting")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, (_, exported) in functions.items():
        (draft / f"{name}.jax_export").write_bytes(exported.serialize())
    named = dict(zip(names, map(Stored.of, leaves), strict=True))
    write_safetensors(draft / "parameters.safetensors", named)
    write_safetensors(
        draft / "transforms.safetensors", {name: Stored.of(a) for name, a in arrays.items()}
    )
    write_safetensors(draft / "tables.safetensors", tables, {"step": str(saved.step)})
    text = json.dumps(about, indent=2, ensure_ascii=False, default=_plain)
    (draft / "serving.json").write_text(f"{text}\n", encoding="utf-8")
    shutil.copyfile(serve.__file__, draft / "serve.py")
    shutil.copytree(
        Path(flatbuffers.__file__).parent,
        draft / "vendor" / "flatbuffers",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (draft / "README.md").write_text(readme(about), encoding="utf-8")
    draft.replace(target)
    return target


def _named(parameters: Any) -> tuple[list[str], list[np.ndarray]]:
    """The leaves of a tree, and the names on the way to them."""
    found = jax.tree_util.tree_leaves_with_path(parameters)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]
    return names, [np.asarray(leaf) for _, leaf in found]


def _features(program: Program, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    combiners = {table.name: table.combiner for table in program.tables}
    return [
        {
            "name": feature.name,
            "table": feature.table,
            "valency": feature.transform.valency,
            "combiner": None if feature.sequence else combiners[feature.table],
            "columns": list(feature.transform.columns),
            "transform": as_data(feature.transform, feature.name, arrays)
            or {"kind": "given", "column": feature.name},
        }
        for feature in program.features
    ]


def _dense(program: Program, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {
            "columns": list(transform.columns),
            "transform": as_data(transform, f"dense.{place}", arrays)
            or {"kind": "given", "column": f"dense.{place}"},
        }
        for place, transform in enumerate(program.dense)
    ]


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    return value.item()
