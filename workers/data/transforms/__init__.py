"""From columns of a file to ids and numbers, declared by a program.

Each transform names the columns it reads, says whether a file's columns suit it (``check``), and
turns a table of rows into one numpy array (``apply``). All work on whole Arrow columns, without a
Python step per value. They are frozen values: their text form is part of the program's fingerprint.

    Ids          integer column, used as it is                      [n, 1]
    Hashed       one or several columns of strings or integers      [n, 1]
    Vocabulary   string or integer column, looked up in a list      [n, 1]
    Buckets      number column, cut at boundaries                   [n, 1]
    Crossed      combinations of the ids of those above             [n, 1]
    Tags         list column of strings or integers, hashed         [n, valency], padded with -1
    Lists        list column, its values by one of those above      [n, valency], padded with -1
    Separated    strings that hold several values, as Lists or Tags [n, valency], padded with -1
    TimePart     hour, weekday, day or month of a moment            [n, 1]
    LogShare     how frequent a value is, as a logarithm            [n]      (dense)
    Number       number column, clipped, log, standardised          [n]      (dense)

One idea a file; `workers.data.fitting` takes vocabularies, boundaries, means and deviations from
data.
"""

from __future__ import annotations

from workers.data.transforms.base import (
    PADDING_ID,
    DenseTransform,
    IdTransform,
    InvalidValue,
    Missing,
    nullable_columns,
)
from workers.data.transforms.buckets import Buckets
from workers.data.transforms.counting import ValueCounter
from workers.data.transforms.crossed import Crossed
from workers.data.transforms.hashed import Hashed
from workers.data.transforms.hashing import hash_values
from workers.data.transforms.ids import Ids
from workers.data.transforms.lists import Cut, Lists, Tags
from workers.data.transforms.log_share import LogShare, ValueCounts, read_counts
from workers.data.transforms.moments import Moments
from workers.data.transforms.number import Number
from workers.data.transforms.separated import Separated
from workers.data.transforms.times import TimePart
from workers.data.transforms.value_set import ValueSet
from workers.data.transforms.vocabulary import Vocabulary
from workers.data.transforms.vocabulary_files import read_vocabulary, write_vocabulary

__all__ = [
    "PADDING_ID",
    "Buckets",
    "Crossed",
    "Cut",
    "DenseTransform",
    "Hashed",
    "IdTransform",
    "Ids",
    "InvalidValue",
    "Lists",
    "LogShare",
    "Missing",
    "Moments",
    "Number",
    "Separated",
    "Tags",
    "TimePart",
    "ValueCounter",
    "ValueCounts",
    "ValueSet",
    "Vocabulary",
    "hash_values",
    "nullable_columns",
    "read_counts",
    "read_vocabulary",
    "write_vocabulary",
]
