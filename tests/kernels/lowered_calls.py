"""SparseCore calls in a lowered program, in a form that can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.mlir import ir

from kernels.optimizers.stablehlo import call_stablehlo

__all__ = ["Call", "evaluate", "sparsecore_calls"]

_SEEN_THROUGH = tuple(
    f"stablehlo.{name}" for name in ("reshape", "slice", "broadcast", "broadcast_in_dim")
)


@dataclass(frozen=True)
class Call:
    """One custom call, and what is done with its result."""

    target: str
    operands: tuple[tuple[str, str], ...]
    """Type and origin of every operand: an argument, a constant, or computed."""
    results: tuple[str, ...]
    config: Any
    """The backend configuration."""
    attributes: tuple[tuple[str, str], ...]
    """All other attributes, aliases of outputs included."""
    parts: tuple[tuple[str, str], ...]
    """Index and attributes of the tuple elements taken out of the result."""
    computation: str | None
    """Symbol of the computation that is called."""


def sparsecore_calls(lowered: Any) -> list[Call]:
    """The calls of a lowered program in their order."""
    module = lowered.compiler_ir("stablehlo")
    return [_call(op) for op in _operations(module.operation) if _is_sparse(op)]


def evaluate(lowered: Any, computation: str, rows: list[jax.Array], results: int) -> list[Any]:
    """Run a computation of a lowered program on the CPU; it returns a tuple or several values."""
    module = lowered.compiler_ir("stablehlo")
    private, signature = [], None
    for op in module.body.operations:
        if ir.StringAttr(op.attributes["sym_name"]).value == computation:
            signature = op.attributes["function_type"].value
        if "private" in str(op.attributes.get("sym_visibility", "")):
            private.append(op.operation.get_asm())
    assert signature is not None
    inputs = [str(kind) for kind in signature.inputs]
    outputs = ", ".join(str(kind) for kind in signature.results)
    arguments = ", ".join(f"%a{n}: {kind}" for n, kind in enumerate(inputs))
    passed = ", ".join(f"%a{n}" for n in range(len(inputs)))
    row = inputs[0]
    body = [
        f'%r:{len(signature.results)} = call @"{computation}"({passed})'
        f" : ({', '.join(inputs)}) -> ({outputs})"
    ]
    values = [f"%r#{n}" for n in range(results)]
    if outputs.startswith("tuple"):
        values = [f"%v{n}" for n in range(results)]
        body += [
            f"%v{n} = stablehlo.get_tuple_element %r#0[{n}] : ({outputs}) -> {row}"
            for n in range(results)
        ]
    kinds = ", ".join([row] * results)
    text = "\n".join(
        [
            f"module {{ func.func public @main({arguments}) -> ({kinds}) {{",
            *body,
            f"return {', '.join(values)} : {kinds} }}",
            *private,
            "}",
        ]
    )
    run = jax.jit(lambda *rows: call_stablehlo(text, rows, results=results))
    return [np.asarray(value) for value in run(*rows)]


def _operations(op: Any) -> Iterator[Any]:
    yield op
    for region in op.regions:
        for block in region:
            for inner in block:
                yield from _operations(inner.operation)


def _is_sparse(op: Any) -> bool:
    return op.name == "stablehlo.custom_call" and _text(op, "call_target_name").startswith("Sparse")


def _text(op: Any, name: str) -> str:
    return ir.StringAttr(op.attributes[name]).value


def _call(op: Any) -> Call:
    attributes = {name: str(op.attributes[name]) for name in op.attributes}
    called = attributes.pop("called_computations", "")
    config = _text(op, "backend_config")
    for name in ("call_target_name", "backend_config"):
        attributes.pop(name)
    uses = [use.owner for result in op.results for use in result.uses]
    parts = [
        (str(use.attributes["index"]), str(use.attributes["mhlo.frontend_attributes"]))
        for use in uses
        if use.operation.name == "stablehlo.get_tuple_element"
    ]
    return Call(
        target=_text(op, "call_target_name"),
        operands=tuple((str(value.type), _origin(value)) for value in op.operands),
        results=tuple(str(value.type) for value in op.results),
        config=json.loads(config) if config else None,
        attributes=tuple(sorted(attributes.items())),
        parts=tuple(sorted(parts)),
        computation=called.strip('[]@"') or None,
    )


def _origin(value: Any) -> str:
    while True:
        if isinstance(value.owner, ir.Block):
            return f"argument {ir.BlockArgument(value).arg_number}"
        op = value.owner
        if op.name == "stablehlo.constant":
            return f"constant {op.attributes['value']}"
        if op.name not in _SEEN_THROUGH:
            return "computed"
        value = op.operands[0]
