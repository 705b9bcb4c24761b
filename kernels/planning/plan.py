"""EmbeddingPlan: everything the driver and all hosts must agree on about the tables.

    specs + topology + batch size (+ limits)  ──build_plan──►  EmbeddingPlan  ◄──JSON──►  hosts
    specs + EmbeddingPlan                     ──apply_plan──►  specs, placed and with limits

A plan is a value: frozen, hashable, and the same JSON on every machine. Making one touches no
device, so the driver can do it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernels.errors import SpecError
from kernels.planning.limits import Limits, ObservedLimits, raise_limits
from kernels.planning.memory import MemoryEstimate, memory_text, with_other_limits
from kernels.planning.topology import Topology

__all__ = ["EmbeddingPlan", "FeaturePlan", "StackPlan", "TablePlacement", "TablePlan"]

FORMAT = 3
"""Changes when the JSON of a plan changes its meaning."""

READABLE = (2, FORMAT)
"""Formats that `EmbeddingPlan.from_json` reads; before 3 no plan had minibatches."""


@dataclass(frozen=True)
class TablePlan:
    """A table as its user specified it, but for its initializer."""

    name: str
    vocabulary_size: int
    embedding_dim: int
    combiner: str
    optimizer: str
    """`OptimizerSpec.describe` as canonical JSON."""
    quantization: tuple[float, float, int] | None = None


@dataclass(frozen=True)
class FeaturePlan:
    """A feature and its place among the samples of its stack."""

    name: str
    table: str
    valency: int | None
    """Ids of a sample; None for ragged input that does not say."""
    samples: int
    """Samples of a global batch."""
    output_dim: int
    row_offset: int


@dataclass(frozen=True)
class TablePlacement:
    """Where a table lies in its stack: see `kernels.TableSettingInStack`."""

    table: str
    row_offset_in_shard: int
    shard_rotation: int
    padded_vocab_size: int


@dataclass(frozen=True)
class StackPlan:
    """Tables that are stored, looked up and updated as one."""

    name: str
    tables: tuple[TablePlacement, ...]
    """In order of their row offsets."""
    vocab_size: int
    """Rows over all shards."""
    width: int
    """Columns, padded."""
    total_sample_count: int
    limits: Limits
    maximum: Limits
    """The limits that no batch can exceed."""
    memory: MemoryEstimate
    """Bytes on one device."""


@dataclass(frozen=True)
class EmbeddingPlan:
    """Placement, limits and memory of all tables on one topology.

    Example:
        >>> plan = build_plan(feature_specs, Topology(hosts=2, devices_per_host=4), batch_size=4096)
        >>> EmbeddingPlan.from_json(plan.to_json()) == plan
        True
    """

    topology: Topology
    batch_size: int
    tables: tuple[TablePlan, ...]
    features: tuple[FeaturePlan, ...]
    stacks: tuple[StackPlan, ...]
    version: int = 0
    minibatching: bool = False
    """Whether a batch beyond the limits is looked up in several rounds: buffers are laid out for
    it, and may be larger than one round can fill."""

    @property
    def limits(self) -> dict[str, Limits]:
        """Limits by stack."""
        return {stack.name: stack.limits for stack in self.stacks}

    @property
    def memory(self) -> MemoryEstimate:
        """Bytes on one device, over all stacks."""
        return functools.reduce(MemoryEstimate.__add__, (stack.memory for stack in self.stacks))

    @property
    def bytes_per_device(self) -> int:
        """All bytes on one device."""
        return self.memory.total

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of all that shapes the computation: everything but ``version``.

        So two plans of one hash can share a compiled step, whatever their versions.
        """
        content = self._content()
        del content["version"]
        return hashlib.sha256(_canonical(content).encode()).hexdigest()

    def stack(self, name: str) -> StackPlan:
        """The stack of that name.

        Raises:
            SpecError: If there is none.
        """
        for stack in self.stacks:
            if stack.name == name:
                return stack
        raise SpecError(
            f"the plan has no stack '{name}'; it has {', '.join(s.name for s in self.stacks)}"
        )

    def table(self, name: str) -> TablePlan:
        """The table of that name.

        Raises:
            SpecError: If there is none.
        """
        for table in self.tables:
            if table.name == name:
                return table
        raise SpecError(
            f"the plan has no table '{name}'; it has {', '.join(t.name for t in self.tables)}"
        )

    def with_raised_limits(
        self, observed: Mapping[str, ObservedLimits], *, headroom: float = 1.25
    ) -> EmbeddingPlan:
        """The next version of this plan, whose limits hold what was observed.

        When one limit must grow, all that have less than the headroom grow with it, of all stacks:
        every version is a compilation, so there should be few (see `raise_limits`).

        Args:
            observed: The largest values seen, by stack.
            headroom: Factor of room above what was seen.

        Returns:
            This very plan when its limits hold everything already.

        Raises:
            SpecError: If ``observed`` names a stack the plan does not have.
        """
        due = any(not self.stack(name).limits.hold(seen) for name, seen in observed.items())
        if not due:
            return self
        raised = self.limits
        for name, seen in observed.items():
            stack = self.stack(name)
            raised[name] = raise_limits(
                stack.limits, seen, headroom=headroom, maximum=stack.maximum, due=due
            ).fitted(self.topology, minibatching=self.minibatching)
        return self if raised == self.limits else self.with_limits(raised)

    def with_limits(self, limits: Mapping[str, Limits]) -> EmbeddingPlan:
        """The next version of this plan with other limits for the stacks named."""
        stacks = tuple(
            dataclasses.replace(
                stack,
                limits=limits.get(stack.name, stack.limits),
                memory=with_other_limits(
                    stack.memory,
                    stack.width,
                    limits.get(stack.name, stack.limits),
                    self.topology,
                    minibatching=self.minibatching,
                ),
            )
            for stack in self.stacks
        )
        return dataclasses.replace(self, stacks=stacks, version=self.version + 1)

    def explain_memory(self) -> str:
        """The bytes on one device as a table in plain text, stack by stack, and what they are.

        Example:
            >>> print(plan.explain_memory())
            each of 8 devices, batches of 4096 samples:
            stack   tables    slots      input  activations  gradients   exchange    total  ...
            users  1.9 GiB  1.9 GiB  192.5 KiB      1.0 MiB    1.0 MiB  520.0 KiB  3.8 GiB  ...
        """
        return (
            f"each of {self.topology.devices} devices, batches of {self.batch_size} samples:\n"
            + memory_text({stack.name: stack.memory for stack in self.stacks})
            + "\ntables, slots: stored all the time; padding is the part of both that no id reads "
            "(rows up to a multiple of 8 × SparseCores, columns up to the stack's width)\n"
            "input, exchange: grow with the limits; activations, gradients: grow with the batch"
        )

    def _content(self) -> dict[str, Any]:
        return {"format": FORMAT} | dataclasses.asdict(self)

    def to_json(self) -> str:
        """The plan as canonical JSON: sorted keys, no spaces."""
        return _canonical(self._content())

    @classmethod
    def from_json(cls, text: str) -> EmbeddingPlan:
        """The plan that `to_json` wrote.

        Raises:
            SpecError: If the text is not such a plan.
        """
        try:
            content = json.loads(text)
            if content.pop("format") not in READABLE:
                raise ValueError("it was written by another version of emberay")
            return cls(
                topology=Topology(**content.pop("topology")),
                tables=tuple(_table(table) for table in content.pop("tables")),
                features=tuple(FeaturePlan(**feature) for feature in content.pop("features")),
                stacks=tuple(_stack(stack) for stack in content.pop("stacks")),
                **content,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SpecError(
                f"this text is not an embedding plan ({error!r}); pass what "
                "EmbeddingPlan.to_json() wrote with this version"
            ) from error


def _table(content: dict[str, Any]) -> TablePlan:
    quantization = content.pop("quantization")
    return TablePlan(quantization=None if quantization is None else tuple(quantization), **content)


def _stack(content: dict[str, Any]) -> StackPlan:
    return StackPlan(
        tables=tuple(TablePlacement(**table) for table in content.pop("tables")),
        limits=Limits(**content.pop("limits")),
        maximum=Limits(**content.pop("maximum")),
        memory=MemoryEstimate(**content.pop("memory")),
        **content,
    )


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
