"""One host of a run: data, preprocessing, mesh, train step, checkpoints.

The public surface, loaded when first used, as most of it brings JAX with it:

    Program, Feature, BinaryCrossEntropy     what a user writes
    Ids, Hashed, Buckets, Tags, Number       columns to ids and numbers
    Host                                     runs a program on one machine
    BinaryMetrics                            metrics that merge

This floor knows nothing of Ray; ``protocol`` says how it is driven.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.data.transforms import Buckets, Hashed, Ids, Number, Tags
    from workers.host import Host
    from workers.metrics import BinaryMetrics
    from workers.program import BinaryCrossEntropy, Feature, Program, load_program

__all__ = [
    "BinaryCrossEntropy",
    "BinaryMetrics",
    "Buckets",
    "Feature",
    "Hashed",
    "Host",
    "Ids",
    "Number",
    "Program",
    "Tags",
    "load_program",
]

_PLACES = {
    "workers.data.transforms": ("Buckets", "Hashed", "Ids", "Number", "Tags"),
    "workers.host": ("Host",),
    "workers.metrics": ("BinaryMetrics",),
    "workers.program": ("BinaryCrossEntropy", "Feature", "Program", "load_program"),
}


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(place), name)
    raise AttributeError(f"module 'workers' has no attribute '{name}'")
