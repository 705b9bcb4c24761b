"""The rules by which a column is taken for ids, numbers, lists or moments, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.data.column_facts import ColumnFacts
from workers.data.evidence import auc_of
from workers.data.number_rules import number_fields, range_boundaries
from workers.data.transforms.columns import is_hashable, is_list, is_number, is_text
from workers.data.transforms.separated import cut
from workers.data.transforms.times import Unit, is_time, moments_of

__all__ = ["LEAK", "Taken", "hashed_rows", "take"]

VOCABULARY_MOST = 1_000
"""Values up to which a list of them is written into the configuration; more are hashed."""
DIRECT_MOST = 50_000_000
"""Largest id that has a row of its own without hashing."""
FEW = 100
"""Integers with at most so many values are ids: a row for each costs nothing."""
LEAK = 0.99
"""A column that alone orders the label so well was most likely measured together with it."""
UNIQUE = 0.9
"""Share of different values from which on a column of ids repeats too rarely to learn from."""
TELLS = 0.005
"""By how much more the exact value must tell than its range, for a number to be an id."""
STRANGE = 0.5
"""Share of rows to evaluate on with values never trained on, from which on values are no ids."""
LIST_MOST = 50
"""Most values of a list that are looked at."""
HASHED_MOST = 1 << 26
HASHED_FACTORS = ((64, 1 << 14), (16, 1 << 16), (4, 1 << 22))
"""Rows for every value, and up to how many values."""

RARE = 4.0
"""Rows that a value has on average, below which ids are taken only if they tell of the label."""
REPEATS = 1.3
"""Rows that a value must have in the sample for it to show what ids tell."""

_ID_NAME = re.compile(
    r"(^|_)(id|ids|uid|guid|uuid|key|code|zip|hash|sku|isbn|user|item|movie|product|ad|campaign|"
    r"advertiser|publisher|session|device|page|url|category|brand|author|artist|track)(s?)($|_)|"
    r"[a-z]I[dD]$"
)
_TIME_NAME = re.compile(
    r"(^|_)(time|timestamp|ts|date|datetime|created|updated|at|when)($|_)|time$"
)
_SEPARATORS = ("|", ";", ",")
_EPOCH = (3e8, 4.1e9)
"""Seconds since 1970 that are taken for a moment: from 1979 to 2099."""


@dataclass(frozen=True)
class Taken:
    """What a column is taken for.

    Attributes:
        kind: In a word or two: ``ids``, ``hashed``, ``number``, ``left out`` …
        why: In a sentence.
        features: Fields of the features made from it: see ``workers.data.declared``.
        numbers: Fields of the dense numbers made from it.
    """

    kind: str
    why: str
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def take(facts: ColumnFacts) -> Taken:
    """Decide what a column is."""
    kind = facts.type
    if not facts.name:
        return Taken("left out", "it has no name")
    if is_list(facts.values.type):
        return _lists(facts)
    if not (is_hashable(kind) or is_number(kind) or is_time(kind)):
        return Taken("left out", f"{kind} cannot be read: convert it to numbers or strings")
    if facts.counts.distinct == 0:
        return Taken("left out", "it holds nothing but nulls")
    if facts.counts.distinct == 1 and facts.null_share == 0:
        return Taken("left out", "it has the same value in all rows of the sample")
    if facts.alone >= LEAK:
        return Taken(
            "left out",
            f"it tells the label by itself (AUC {facts.alone:.3f}), so it was probably measured "
            "together with it",
        )
    unit = _epoch_unit(facts)
    if unit or is_time(kind):
        return _moment(facts, unit)
    if pa.types.is_boolean(kind):
        fields = {"kind": "ranges", "boundaries": [0.5], **_missing(facts)}
        return Taken("ids", "true and false have a row each", {facts.name: fields})
    if is_text(kind) and facts.strange > STRANGE:
        return Taken(
            "left out",
            f"{facts.strange:.0%} of the rows to evaluate on have values that are never trained on",
        )
    if is_text(kind):
        return _text(facts)
    if pa.types.is_integer(kind) and (said := _integers_are_ids(facts)):
        return _integer_ids(facts, said)
    if pa.types.is_decimal(kind) and kind.scale <= 0 and _named_as_ids(facts.name):
        return Taken("left out", f"the name says ids, but they are {kind}: convert them to int64")
    return _number(facts)


def hashed_rows(distinct: int) -> int:
    """Rows for hashing so many values: 64 times as many while they are few, 2 where millions.

    Values that share a row cost more than rows: of an AUC of 0.82, where 6 % do, 0.002.
    """
    factor = next((f for f, most in HASHED_FACTORS if distinct <= most), 2)
    return min(HASHED_MOST, max(64, 1 << (distinct * factor - 1).bit_length()))


def _missing(facts: ColumnFacts) -> dict[str, Any]:
    return {"missing": "own"} if facts.may_have_nulls else {}


def _hashed(facts: ColumnFacts, why: str) -> tuple[dict[str, Any], str]:
    rows = hashed_rows(facts.counts.estimate)
    share = 1 - np.exp(-facts.counts.estimate / rows)
    text = f"{why}; hashed into {rows:,} rows, so {share:.0%} of the values share one"
    return {"kind": "hashed", "rows": rows}, text


def _vocabulary(facts: ColumnFacts) -> dict[str, Any] | None:
    """The fields of a vocabulary of the sample's values; None where there are too many."""
    groups, values = facts.grouped
    if max(facts.counts.distinct, facts.counts.estimate) > VOCABULARY_MOST:
        return None
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        return None
    counts = np.bincount(groups[groups >= 0], minlength=len(values))
    words = values.to_pylist()
    order = sorted(range(len(words)), key=lambda place: (-counts[place], words[place]))
    return {"kind": "vocabulary", "values": [words[place] for place in order if counts[place]]}


def _learnt_by_heart(facts: ColumnFacts) -> str | None:
    """Why values that are seldom seen are left out; None if they are not, or it is not known.

    A model learns the labels of such rows by heart, and is worse for others the longer it trains.
    """
    counts = facts.counts
    known = facts.rows * (1 - facts.null_share)
    shown = len(facts.values) * (1 - facts.null_share) / max(counts.distinct, 1)
    if known >= RARE * counts.estimate or shown < REPEATS or not facts.by_value < 0.5 + TELLS:
        return None
    return (
        f"a value has {known / counts.estimate:.1f} rows on average, and tells nothing of the "
        f"label (AUC {facts.by_value:.3f}): it would be learnt by heart"
    )


def _each_a_row(values: int, where: str) -> str:
    if values == 1:
        return f"one value{where}: it has a row, new ones share another"
    return f"{values:,} values{where}: each has a row, new ones share one"


def _text(facts: ColumnFacts) -> Taken:
    counts = facts.counts
    if counts.estimate > UNIQUE * facts.rows and facts.rows > 100:
        return Taken("left out", "nearly every row has a string of its own: a key, or free text")
    if (said := _learnt_by_heart(facts)) is not None:
        return Taken("left out", said)
    separated = _separated(facts)
    if separated is not None:
        return separated
    fields = _vocabulary(facts)
    why = _each_a_row(counts.distinct, "")
    if fields is None:
        many = counts.estimate > VOCABULARY_MOST
        said = "strings, more than a list holds" if many else "different bytes"
        fields, why = _hashed(facts, f"about {counts.estimate:,} {said}")
    return Taken(fields["kind"], why, {facts.name: fields | _missing(facts)})


def _separated(facts: ColumnFacts) -> Taken | None:
    """Strings such as ``Comedy|Drama`` as lists; None where they are none."""
    words = facts.grouped[1]
    if not is_text(words.type) or len(words) < 8:
        return None
    for separator in _SEPARATORS:
        try:
            lists = cut(pa.chunked_array([words]), separator)
        except pa.ArrowException:
            return None
        sizes = np.diff(lists.combine_chunks().offsets.to_numpy())
        parts = groups_count(lists)
        if (sizes > 1).mean() > 0.2 and parts < len(words) / 2:
            inner = ColumnFacts(
                facts.name, cut(facts.values, separator), facts.rows, facts.known, None
            )
            taken = _lists(inner)
            fields = {**taken.features[facts.name], "separator": separator}
            return Taken("list", f"strings cut at '{separator}': {taken.why}", {facts.name: fields})
    return None


def groups_count(lists: pa.ChunkedArray) -> int:
    """How many different values the lists hold."""
    return sum(len(chunk.flatten().unique()) for chunk in lists.chunks)


def _lists(facts: ColumnFacts) -> Taken:
    inner = facts.values.type.value_type
    if not is_hashable(inner):
        return Taken(
            "left out", f"lists of {inner} cannot be read: of strings or integers they can"
        )
    if not facts.counts.distinct:
        return Taken("left out", "all lists of the sample are empty")
    lengths: Any = pc
    sizes = lengths.list_value_length(facts.values).fill_null(0).to_numpy()
    most = int(min(LIST_MOST, max(1, np.quantile(sizes, 0.999))))
    longer = float((sizes > most).mean())
    fields = _vocabulary(facts)
    if fields is None:
        fields, why = _hashed(facts, f"about {facts.counts.estimate:,} values in lists")
    else:
        why = _each_a_row(facts.counts.distinct, " in lists")
    of = fields.pop("kind")
    why += f"; up to {most} a row" + (f", {longer:.1%} of the rows lose the rest" if longer else "")
    return Taken("list", why, {facts.name: {"kind": "list", "of": of, "most": most, **fields}})


def _epoch_unit(facts: ColumnFacts) -> Unit | None:
    """What integers count that are moments, by their name and size; None if they are none."""
    if not pa.types.is_integer(facts.type) or not _TIME_NAME.search(facts.name.lower()):
        return None
    low, high = float(np.nanmin(facts.numbers)), float(np.nanmax(facts.numbers))
    factors: tuple[tuple[Unit, float], ...] = (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))
    for unit, factor in factors:
        if low >= _EPOCH[0] * factor and high <= _EPOCH[1] * factor:
            return unit
    return None


def _moment(facts: ColumnFacts, unit: Unit | None) -> Taken:
    moments = moments_of(facts.values.drop_null(), unit or "s").cast(pa.timestamp("s"), safe=False)
    seconds = moments.cast(pa.int64()).to_numpy()
    days = (int(seconds.max()) - int(seconds.min())) / 86400
    parts = [
        *(["hour"] if len(np.unique(seconds // 3600 % 24)) > 1 else []),
        *(["weekday"] if days >= 7 else []),
        *(["month"] if days >= 300 else []),
    ]
    if not parts:
        return Taken("left out", "all moments of the sample are in one hour of one day")
    said = f"a moment ({unit} since 1970)" if unit else "a moment"
    base = {"kind": "time", "column": facts.name, **({"unit": unit} if unit else {})}
    return Taken(
        "time",
        f"{said}, over {days:,.0f} days: its {', '.join(parts)} "
        + ("are ids" if len(parts) > 1 else "is an id"),
        {f"{facts.name}_{part}": {**base, "part": part, **_missing(facts)} for part in parts},
    )


def _named_as_ids(name: str) -> bool:
    return bool(_ID_NAME.search(name.lower()) or _ID_NAME.search(name))


def _integers_are_ids(facts: ColumnFacts) -> str | None:
    """Why integers are ids; None if they are numbers."""
    counts = facts.counts
    if facts.strange > STRANGE:
        return None
    if _named_as_ids(facts.name):
        return "the name says ids"
    if counts.distinct <= FEW:
        return f"{counts.distinct} different integers"
    more = facts.by_value - facts.by_range
    if more > TELLS and facts.by_value > 0.5 + TELLS:
        return (
            f"the value tells more of the label (AUC {facts.by_value:.3f}) than its range "
            f"({facts.by_range:.3f}), as with ids"
        )
    return None


def _integer_ids(facts: ColumnFacts, why: str) -> Taken:
    """Integers as ids; where nothing but their number says so, as numbers besides."""
    taken = _rows_for_integers(facts, why)
    if _named_as_ids(facts.name) or facts.counts.distinct <= 2 or taken.kind == "left out":
        return taken
    fields, _ = number_fields(
        facts.name, facts.numbers[np.isfinite(facts.numbers)], facts.may_have_nulls
    )
    return replace(taken, why=f"{taken.why}; a number too", numbers={facts.name: fields})


def _rows_for_integers(facts: ColumnFacts, why: str) -> Taken:
    counts, known = facts.counts, facts.known
    if counts.estimate > UNIQUE * facts.rows and facts.rows > 100:
        return Taken("left out", f"{why}, but nearly every row has another")
    if (said := _learnt_by_heart(facts)) is not None:
        return Taken("left out", f"{why}, but {said}")
    low, high = known.least, known.most
    if isinstance(low, int) and low >= 0 and high < min(DIRECT_MOST, 2 * counts.estimate + 1000):
        fields = {"kind": "ids", "rows": high + 1, **_missing(facts)}
        return Taken(
            "ids", f"{why}, from {low:,} to {high:,}: each is its own row", {facts.name: fields}
        )
    fields = _vocabulary(facts)
    if fields is not None:
        why += ", far apart" if isinstance(low, int) else ", whose largest no metadata tells"
        return Taken(
            "vocabulary",
            f"{why}: each has a row, new ones share one",
            {facts.name: fields | _missing(facts)},
        )
    fields, why = _hashed(facts, f"{why}, about {counts.estimate:,} far apart")
    return Taken("hashed", why, {facts.name: fields | _missing(facts)})


def _number(facts: ColumnFacts) -> Taken:
    numbers = facts.numbers
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return Taken("left out", "it holds no finite number")
    fields, how = number_fields(facts.name, finite, facts.may_have_nulls)
    why = f"a number, {how}"
    if facts.strange > STRANGE:
        why += f" ({facts.strange:.0%} of the rows to evaluate on have values never trained on)"
    features: dict[str, Mapping[str, Any]] = {}
    reason = _ranges_help(facts)
    boundaries = range_boundaries(finite)
    if reason and boundaries:
        features[f"{facts.name}_range"] = {
            "kind": "ranges",
            "column": facts.name,
            "boundaries": boundaries,
            **_missing(facts),
        }
        why += f"; its {len(boundaries) + 1} ranges are ids too, as {reason}"
    return Taken("number", why, features, {facts.name: fields})


def _ranges_help(facts: ColumnFacts) -> str | None:
    """Why ranges of a number are ids besides; None if they need not be."""
    if facts.null_share > 0.001:
        return "a missing one has its own"
    if facts.labels is None or not np.isfinite(facts.by_range):
        return None
    known = np.isfinite(facts.numbers)
    rising = auc_of(facts.numbers[known], facts.labels[known])
    if facts.by_range - max(rising, 1 - rising) > TELLS:
        return f"more than rise or fall matters (AUC {facts.by_range:.3f} by ranges)"
    return None
