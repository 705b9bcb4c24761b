"""Tables of a checkpoint: how they were stacked, and how to stack them for another mesh.

A checkpoint says how its tables lie with the JSON of an `EmbeddingPlan`. Tables go from one layout
to another in numpy, through whole tables ``[vocabulary, columns]``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from kernels.errors import SpecError
from kernels.planning import (
    EmbeddingPlan,
    StackPlan,
    Topology,
    auto_stack_tables,
    get_stacked_table_specs,
    prepare_feature_specs_for_training,
    stack_tables,
)
from kernels.planning.placed import plan_of_placed, specs_of_plan
from kernels.specs import FeatureSpec, Nested
from kernels.variables import EmbeddingVariables, stack_tables_into, unstack_variables

__all__ = ["SavedLayout", "like_saved", "moved", "whole_tables"]


@dataclass(frozen=True)
class SavedLayout:
    """How the tables of a checkpoint are stacked and sharded.

    Attributes:
        plan: Where every table lies.
        activation_mem_bytes_limit: The largest bound its stacks were made with.
    """

    plan: EmbeddingPlan
    activation_mem_bytes_limit: int

    @classmethod
    def of(
        cls, feature_specs: Nested[FeatureSpec], devices: int, sparsecores_per_device: int
    ) -> SavedLayout:
        """The layout of features that have been stacked.

        Raises:
            SpecError: If they have not, or for another mesh.
        """
        stacks = get_stacked_table_specs(feature_specs).values()
        return cls(
            plan_of_placed(feature_specs, Topology(1, devices, sparsecores_per_device)),
            max((stack.activation_mem_bytes_limit for stack in stacks), default=0),
        )

    def to_json(self) -> dict[str, Any]:
        """As saved: ``{"plan": EmbeddingPlan.to_json(), "activation_mem_bytes_limit": bytes}``."""
        return {
            "plan": self.plan.to_json(),
            "activation_mem_bytes_limit": self.activation_mem_bytes_limit,
        }

    @classmethod
    def from_json(cls, content: Any) -> SavedLayout:
        """What `to_json` made.

        Raises:
            SpecError: If it is something else.
        """
        try:
            return cls(
                EmbeddingPlan.from_json(content["plan"]), int(content["activation_mem_bytes_limit"])
            )
        except (TypeError, KeyError) as error:
            raise SpecError(
                f"the checkpoint's embedding spec {content!r} is not of this form ({error!r}); use "
                "a checkpoint that save_checkpoint wrote"
            ) from error

    def same_places(self, other: SavedLayout) -> bool:
        """Whether every row lies at the same place of the same array."""
        return _places(self.plan) == _places(other.plan)

    def for_mesh(
        self, devices: int, sparsecores_per_device: int, batch_size: int | None = None
    ) -> SavedLayout:
        """The layout the same tables get on another mesh.

        Tables that were stacked automatically are so again, within the same memory bound. Those
        that were stacked otherwise stay together as they were.

        Args:
            devices: Devices of the mesh.
            sparsecores_per_device: SparseCores of a device.
            batch_size: Samples of a global batch there, None for as many as here.

        Raises:
            SpecError: If an optimizer cannot be made again from its description.
        """
        here = self.plan.topology
        automatic = specs_of_plan(self.plan)
        self._auto_stack(automatic, here.devices, here.sparsecores_per_device)
        specs = specs_of_plan(self.plan, batch_size)
        if get_stacked_table_specs(automatic).keys() == {s.name for s in self.plan.stacks}:
            self._auto_stack(specs, devices, sparsecores_per_device)
        else:
            for stack in self.plan.stacks:
                if len(stack.tables) > 1:
                    names = [place.table for place in stack.tables]
                    stack_tables(
                        specs, names, devices, sparsecores_per_device, stack_name=stack.name,
                        activation_mem_bytes_limit=self.activation_mem_bytes_limit,
                    )  # fmt: skip
            prepare_feature_specs_for_training(specs, devices, sparsecores_per_device)
        plan = plan_of_placed(specs, Topology(1, devices, sparsecores_per_device))
        return dataclasses.replace(self, plan=plan)

    def _auto_stack(self, specs: list[FeatureSpec], devices: int, per_device: int) -> None:
        bound = self.activation_mem_bytes_limit
        auto_stack_tables(specs, devices, per_device, activation_mem_bytes_limit=bound)


def _places(plan: EmbeddingPlan) -> Any:
    stacks = [(stack.name, stack.tables, stack.vocab_size, stack.width) for stack in plan.stacks]
    return plan.topology.sparsecores, stacks


def whole_tables(layout: SavedLayout, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables and slots out of their stacks, ``[vocabulary, columns]`` each.

    Args:
        layout: How the stacks lie.
        variables: By stack, `EmbeddingVariables`, or mappings with "table" and "slot".

    Returns:
        By table, ``{"table": array, "slot": a tree of arrays}``.

    Raises:
        SpecError: If a stack of the layout is missing.
    """
    whole = unstack_variables(layout.plan, _flat(layout, variables))
    result = {}
    for stack in layout.plan.stacks:
        structure = jax.tree.structure(_parts(variables[stack.name])[1])
        for place in stack.tables:
            table, slots = whole[place.table]
            result[place.table] = {"table": table, "slot": jax.tree.unflatten(structure, slots)}
    return result


def moved(
    source: SavedLayout, variables: Mapping[str, Any], target: SavedLayout, fresh: Any = None
) -> dict[str, dict[str, Any]]:
    """Stacks of another layout, with the rows and slots of these.

    Args:
        source: How the stacks lie.
        variables: By stack, `EmbeddingVariables`, or mappings with "table" and "slot".
        target: How they are to lie.
        fresh: Variables of the target layout that give padding its values; None for 0.

    Returns:
        By stack of the target, ``{"table": array, "slot": a tree of arrays}``, in numpy.

    Raises:
        SpecError: If the tables are not the same in both, or their slots not those of ``fresh``.
    """
    _same_tables(source.plan, target.plan)
    flat = _flat(source, variables)
    begin = {} if fresh is None else _flat(target, fresh)
    stack_of = {place.table: stack for stack in source.plan.stacks for place in stack.tables}
    structures = {}
    for stack in target.plan.stacks:
        old = stack_of[stack.tables[0].table]
        structures[stack.name] = jax.tree.structure(_parts(variables[old.name])[1])
        if fresh is None:
            begin[stack.name] = _blank(stack, old, flat[old.name])
        elif len(begin[stack.name].slot) != len(flat[old.name].slot):
            raise SpecError(
                f"stack '{stack.name}' has {len(begin[stack.name].slot)} slot variables, but the "
                f"checkpoint has {len(flat[old.name].slot)}; use the optimizer it was saved with"
            )
    stacked = stack_tables_into(target.plan, begin, unstack_variables(source.plan, flat))
    return {
        name: {"table": table, "slot": jax.tree.unflatten(structures[name], slots)}
        for name, (table, slots) in stacked.items()
    }


def like_saved(saved: Mapping[str, Any], target: SavedLayout, source: SavedLayout, now: Any) -> Any:
    """Variables of the saved layout to restore into: in numpy, without memory of their own.

    Args:
        saved: By stack as saved, mappings with "table" and "slot" of anything with a shape.
        target: The layout of the model.
        source: The layout of the checkpoint.
        now: The model's variables: their slots have the names the saved ones go by.
    """
    stack_of = {place.table: stack for stack in target.plan.stacks for place in stack.tables}
    result = {}
    for stack in source.plan.stacks:
        if stack.name not in saved:
            raise _missing_stack(stack.name, saved)
        template = _parts(now[stack_of[stack.tables[0].table].name])[1]
        table, slots = _parts(saved[stack.name])
        slots = [_empty(slot) for slot in jax.tree.leaves(slots)]
        leaves, structure = jax.tree.flatten(template)
        if len(slots) != len(leaves):
            raise SpecError(
                f"stack '{stack.name}' was saved with {len(slots)} slot variables, the model has "
                f"{len(leaves)}; use the optimizer it was saved with"
            )
        slots = jax.tree.unflatten(structure, slots)
        result[stack.name] = EmbeddingVariables(_empty(table), slots)
    return result


def _empty(like: Any) -> np.ndarray:
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)


def _parts(variables: Any) -> tuple[Any, Any]:
    """Table and tree of slots."""
    if isinstance(variables, Mapping):
        return variables["table"], variables.get("slot") or ()
    return variables.table, variables.slot


def _flat(layout: SavedLayout, variables: Mapping[str, Any]) -> dict[str, EmbeddingVariables]:
    """Every stack as arrays in numpy, its slots in a plain tuple."""
    result = {}
    for stack in layout.plan.stacks:
        if stack.name not in variables:
            raise _missing_stack(stack.name, variables)
        table, slots = _parts(variables[stack.name])
        arrays = [np.asarray(array) for array in (table, *jax.tree.leaves(slots))]
        result[stack.name] = EmbeddingVariables(arrays[0], tuple(arrays[1:]))
    return result


def _missing_stack(name: str, variables: Mapping[str, Any]) -> SpecError:
    return SpecError(
        f"stack '{name}' of the checkpoint's embedding spec is not among its tables "
        f"{sorted(variables)}; the checkpoint does not belong together"
    )


def _blank(stack: StackPlan, old: StackPlan, like: EmbeddingVariables) -> EmbeddingVariables:
    """Zeros. A slot as wide as its stack is so again, a narrower one stays as wide as it is."""
    arrays = [
        np.zeros(
            (stack.vocab_size, stack.width if array.shape[1] == old.width else array.shape[1]),
            array.dtype,
        )
        for array in (like.table, *like.slot)
    ]
    return EmbeddingVariables(arrays[0], tuple(arrays[1:]))


def _same_tables(source: EmbeddingPlan, target: EmbeddingPlan) -> None:
    before = {table.name: (table.vocabulary_size, table.embedding_dim) for table in source.tables}
    after = {table.name: (table.vocabulary_size, table.embedding_dim) for table in target.tables}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise SpecError(
                f"table '{name}' was saved with (rows, columns) {before.get(name)}, and is wanted "
                f"with {after.get(name)}; use the tables the checkpoint was made with"
            )
