"""Arrays in a safetensors file, one in memory at a time.

    8 bytes: length of the header, little-endian
    header: JSON, name → {dtype, shape, data_offsets}, filled up with spaces to whole words
    the arrays, little-endian, one after another

The format of https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workers.errors import DataError

__all__ = ["Stored", "write_safetensors"]

_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "uint64": "U64",
    "uint32": "U32",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class Stored:
    """An array to be written: its type and shape, and how to get it."""

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @staticmethod
    def of(array: np.ndarray) -> Stored:
        """An array that is in memory."""
        return Stored(array.dtype, array.shape, lambda: array)


def write_safetensors(
    file: Path, arrays: Mapping[str, Stored], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays under their names.

    Args:
        file: The file, which is replaced.
        arrays: By name.
        metadata: Further words, beside the arrays.

    Raises:
        DataError: An array is of a type that the format has not.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata or {})}
    begin = 0
    for name, array in arrays.items():
        kind = _TYPES.get(array.dtype.name)
        if kind is None:
            raise DataError(f"'{name}' holds {array.dtype}, which safetensors are not for")
        end = begin + int(np.prod(array.shape)) * array.dtype.itemsize
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            # A view of bytes, as not every type has a buffer of its own.
            out.write(np.ascontiguousarray(array.read()).reshape(-1).view(np.uint8).data)
