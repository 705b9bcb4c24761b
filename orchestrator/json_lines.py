"""Files with one JSON object a line, as a killed process may have left them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

__all__ = ["open_for_append", "read_lines", "replace_text", "to_json"]


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that any reader takes: numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, in order; nothing if there is no file.

    A last line without its line break was cut off when its writer was killed, and is left out.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def open_for_append(path: Path) -> TextIO:
    """Open for appending, after removing a last line that was cut off."""
    if path.exists():
        with path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def replace_text(path: Path, parts: Iterable[str]) -> None:
    """Write a file so that a reader sees either the old one or all of the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
