"""What the README of an exported folder says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["readme"]

_TEXT = """\
# {program}, after step {step}

A trained model with its embedding tables. It needs Python 3.12, numpy, and jax: {jax} exported it,
and newer ones read it for at least half a year.

```python
import serve

model = serve.load(".")                 # this folder
predictions = model.predict({{           # columns, as the training data has them; None for nulls
{example}
}})
```

`predict` gives {gives}. Or from a shell, with the same columns as JSON:

```bash
python serve.py columns.json
```

## Columns

{columns}

## Features

`model.encode(columns)` makes ids and dense numbers of columns, and `model.score(ids, dense)` takes
them: int32 `[batch, valency]` for each feature, -1 where there is no id, and float32
`[batch, {dense}]`.

| feature | table | valency | ids of one row are | made from |
|---|---|---|---|---|
{features}
{given}
## Files

| file | what it is |
|---|---|
{functions}| `tables.safetensors` | {tables} |
| `parameters.safetensors` | the model's parameters |
| `transforms.safetensors` | hashes of vocabularies' values, in the order of their ids; counts |
| `serving.json` | all of the above, for programs |
| `serve.py` | reads all of it |
| `vendor/flatbuffers` | FlatBuffers (Google, Apache 2.0), where it is not installed: `jax.export` \
reads with it |

The functions are called with `(tables, parameters, ids, dense)`: dictionaries of arrays by name,
and the dense numbers. They are lowered for {platforms}, and take {batch}. Ids
that a table does not have count as no id. All tables go onto one device.
"""


def readme(about: Mapping[str, Any]) -> str:
    """The text.

    Args:
        about: What ``serving.json`` says.
    """
    features = about["features"]
    asked = {**about["columns"], **_given(about)}
    functions = about["functions"].items()
    return _TEXT.format(
        program=about["program"],
        step=about["step"],
        jax=about["jax"],
        example="\n".join(f'    "{name}": [...],' for name in asked),
        gives="; or, with `function=`, ".join(
            " and ".join(f"`{column}`" for column in told["columns"])
            + (f" (`{name}`)" if len(about["functions"]) > 1 else "")
            for name, told in functions
        ),
        columns=_table(("column", "type in the data"), asked.items()),
        dense=len(about["dense"]),
        features="\n".join(
            _row(
                f["name"],
                f["table"],
                f["valency"],
                "a sequence" if f["combiner"] is None else f"combined by {f['combiner']}",
                ", ".join(f["columns"]),
            )
            for f in features
        ),
        given=_told_of_given(about),
        functions="".join(
            f"| `{told['file']}` | the function `{name}`, as `jax.export` writes it |\n"
            for name, told in functions
        ),
        tables=", ".join(
            f"`{name}` [{told['rows']}, {told['width']}] {told['dtype']}"
            for name, told in about["tables"].items()
        ),
        platforms=", ".join(about["platforms"]),
        batch="batches of any size"
        if about["batch"] is None
        else f"batches of {about['batch']} rows",
    )


def _given(about: Mapping[str, Any]) -> dict[str, str]:
    """What whoever serves must make by themselves."""
    found = [one["transform"] for one in (*about["features"], *about["dense"])]
    return {told["column"]: "ready made" for told in found if told["kind"] == "given"}


def _told_of_given(about: Mapping[str, Any]) -> str:
    given = _given(about)
    if not given:
        return ""
    names = ", ".join(f"`{name}`" for name in given)
    return (
        f"\n{names}: made by code that is not in this folder. Give the finished ids or numbers "
        "under these names, beside the columns.\n"
    )


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [_row(*head), "|" + "---|" * len(head)]
    return "\n".join([*lines, *(_row(name, kind or "not known") for name, kind in rows)])


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
