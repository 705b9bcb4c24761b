"""What a conversion has done so far, so that the same command goes on where it was ended."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from workers.data.convert.layouts import Layout
from workers.data.convert.sources import Source
from workers.errors import DataError

__all__ = ["MANIFEST", "Manifest", "Part"]

MANIFEST = "_manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Part:
    """One finished file.

    Attributes:
        file: Its name.
        rows: Its rows.
        bytes: Its size.
        bad: Lines left out up to its end, since the end of the part before.
        source: Number of the source that the next part begins in.
        offset: Where in that, in bytes without compression.
        line: Number of the line there.
    """

    file: str
    rows: int
    bytes: int
    bad: int
    source: int
    offset: int
    line: int


@dataclass(frozen=True)
class Manifest:
    """A conversion.

    Attributes:
        settings: What was asked for, as JSON values.
        sources: The files, as they were at the beginning.
        layout: What a line is.
        parts: What is done.
    """

    settings: dict[str, Any]
    sources: tuple[Source, ...]
    layout: Layout
    parts: tuple[Part, ...] = ()

    def check_same(
        self, settings: dict[str, Any], sources: tuple[Source, ...], where: Path
    ) -> None:
        """Raise DataError unless a conversion of these would go on with this one.

        How many bad lines are allowed may change: it does not change what is written.
        """
        ours, theirs = (
            {k: v for k, v in s.items() if k != "most_bad"} for s in (self.settings, settings)
        )
        changed = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        files = [old.file for old, new in zip(self.sources, sources, strict=False) if old != new]
        if len(self.sources) != len(sources):
            files = [f"{len(self.sources)} files, now {len(sources)}"]
        if changed or files:
            told = [f"{key} was {ours.get(key)!r}, now {theirs.get(key)!r}" for key in changed]
            told += [f"sources have changed: {', '.join(files[:3])}"] if files else []
            raise DataError(
                f"'{where}' holds a conversion of something else ({'; '.join(told)}); remove that "
                "folder to convert anew, or give another place for the output"
            )

    def write(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all."""
        values = {
            "format": FORMAT_VERSION,
            "settings": self.settings,
            "sources": [dataclasses.asdict(source) for source in self.sources],
            "layout": dataclasses.asdict(self.layout)
            | {"columns": _as_text(pa.schema(self.layout.columns))},
            "parts": [dataclasses.asdict(part) for part in self.parts],
        }
        partial = folder / f".{MANIFEST}.{os.getpid()}.partial"
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        partial.replace(folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The manifest of a folder; None where it has none.

        Raises:
            DataError: It is not one that this version has written.
        """
        try:
            values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if values["format"] != FORMAT_VERSION:
                raise ValueError(f"format {values['format']}, not {FORMAT_VERSION}")
            layout = values["layout"]
            columns = tuple((field.name, field.type) for field in _schema(layout["columns"]))
            return cls(
                values["settings"],
                tuple(Source(**source) for source in values["sources"]),
                Layout(**(layout | {"columns": columns, "nulls": tuple(layout["nulls"])})),
                tuple(Part(**part) for part in values["parts"]),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"'{folder / MANIFEST}' cannot be read ({error}); remove '{folder}' to convert anew"
            ) from error


def _as_text(schema: pa.Schema) -> str:
    """A schema in Arrow's own form, as not every type has a name that is read back."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def _schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
