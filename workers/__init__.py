"""One host of a run: data, preprocessing, mesh, train step, checkpoints.

The public surface, loaded when first used, as most of it brings JAX with it:

    Program, Feature, BinaryCrossEntropy     what a user writes
    Ids, Hashed, Vocabulary, Buckets,        columns to ids
    Crossed, Tags, Lists, Separated,
    TimePart
    Number                                   columns to numbers
    ValueSet, read_vocabulary, ...           vocabularies and where they come from
    Ranking                                  recall@k and NDCG@k in evaluations
    Ridge                                    draws all rows of tables towards 0
    Host                                     runs a program on one machine
    BinaryMetrics                            metrics that merge

This floor knows nothing of Ray; ``protocol`` says how it is driven.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.data.fitting import fit_buckets, fit_numbers, fit_vocabulary
    from workers.data.transforms import (
        Buckets,
        Crossed,
        Hashed,
        Ids,
        Lists,
        Number,
        Separated,
        Tags,
        TimePart,
        ValueSet,
        Vocabulary,
        hash_values,
        read_vocabulary,
        write_vocabulary,
    )
    from workers.host import Host
    from workers.metrics import BinaryMetrics
    from workers.program import BinaryCrossEntropy, Feature, Program, load_program
    from workers.ranking import Ranking
    from workers.ridge import Ridge

__all__ = [
    "BinaryCrossEntropy",
    "BinaryMetrics",
    "Buckets",
    "Crossed",
    "Feature",
    "Hashed",
    "Host",
    "Ids",
    "Lists",
    "Number",
    "Program",
    "Ranking",
    "Ridge",
    "Separated",
    "Tags",
    "TimePart",
    "ValueSet",
    "Vocabulary",
    "fit_buckets",
    "fit_numbers",
    "fit_vocabulary",
    "hash_values",
    "load_program",
    "read_vocabulary",
    "write_vocabulary",
]

_PLACES = {
    "workers.data.fitting": ("fit_buckets", "fit_numbers", "fit_vocabulary"),
    "workers.data.transforms": (
        "Buckets",
        "Crossed",
        "Hashed",
        "Ids",
        "Lists",
        "Number",
        "Separated",
        "Tags",
        "TimePart",
        "ValueSet",
        "Vocabulary",
        "hash_values",
        "read_vocabulary",
        "write_vocabulary",
    ),
    "workers.host": ("Host",),
    "workers.metrics": ("BinaryMetrics",),
    "workers.program": ("BinaryCrossEntropy", "Feature", "Program", "load_program"),
    "workers.ranking": ("Ranking",),
    "workers.ridge": ("Ridge",),
}


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(place), name)
    raise AttributeError(f"module 'workers' has no attribute '{name}'")
