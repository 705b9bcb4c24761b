"""The list of all options, made from the models' types, defaults and docstrings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAliasType, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.config import RunConfig
from orchestrator.plain_yaml import write_yaml

__all__ = ["Option", "all_options", "options_table"]


@dataclass(frozen=True)
class Option:
    """One thing that can be set."""

    name: str
    """Dotted key."""
    type_name: str
    default: str
    """As it would be typed; empty for a section's required key."""
    description: str


def all_options(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[Option]:
    """Every option of a model and its sections, in the order they are written down."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from all_options(field.annotation, f"{prefix}{name}.")
        else:
            yield Option(
                name=prefix + name,
                type_name=_type_name(field.annotation),
                default=_default(field),
                description=" ".join((field.description or "").split()).replace("``", ""),
            )


def options_table(width: int = 100) -> str:
    """All options as text: ``name: type = default``, and below it the description, indented."""
    lines: list[str] = []
    for option in all_options():
        lines.append(f"  {option.name}: {option.type_name} = {option.default}")
        lines += textwrap.wrap(
            option.description, width, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    return write_yaml(field.get_default(call_default_factory=True)).removesuffix("\n...\n").strip()


def _type_name(annotation: Any) -> str:
    """A short name of a type: ``int``, ``str | null``, ``auto | {name: …}``."""
    if isinstance(annotation, TypeAliasType):
        return _type_name(annotation.__value__)
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " | ".join(str(argument) for argument in arguments)
    if origin is dict:
        inner = arguments[1]
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys = ", ".join(inner.model_fields)
            return f"{{name: {{{keys}}}}}"
        return "{name: value}"
    if origin is Union or arguments:
        return " | ".join(_type_name(argument) for argument in arguments)
    return str(annotation)
