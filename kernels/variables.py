"""Creating tables and slot variables on a mesh, and reading them back as logical tables."""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels.errors import SpecError
from kernels.layout import from_shards, to_shards
from kernels.optimizers.base import Initializer, OptimizerSpec
from kernels.planning.build import apply_plan
from kernels.planning.plan import EmbeddingPlan, StackPlan
from kernels.planning.stacking import get_table_specs
from kernels.specs import FeatureSpec, Nested, TableSpec
from kernels.utils import check_num_sparsecores, tree_leaves

__all__ = [
    "EmbeddingVariables",
    "init_embedding_variables",
    "initialize_tables",
    "stack_tables_into",
    "unstack_tables",
    "unstack_variables",
]


class EmbeddingVariables(NamedTuple):
    """A stack's table, ``[rows, width]``, and its slot variables, ``[rows, slot width]`` each."""

    table: Any
    slot: tuple[Any, ...]


def initialize_tables(
    plan: EmbeddingPlan, feature_specs: Nested[FeatureSpec], mesh: Mesh, seed: int
) -> dict[str, EmbeddingVariables]:
    """First values of all tables and slots, the same on every mesh.

    Row ``r`` of table T depends on the seed, the name of T and ``r`` alone: not on the number of
    devices, nor on stacking. For that, T's initializer is called for each row by itself, with its
    own key and the shape ``(1, embedding_dim)``: an initializer whose scale follows the shape
    (``lecun_normal``, ``glorot_uniform``) sees a fan-in of 1, so prefer ``normal(stddev)`` or
    ``uniform(scale)``. Slots are made the same way.

    Padding rows and columns of a table are 0. Those of a slot hold the slot's initial value, so
    that no update divides by 0 there.

    Args:
        plan: The plan; its topology must have the devices of ``mesh``.
        feature_specs: The features the plan was made from, stacked or not.
        mesh: The devices. Rows are sharded over all its axes.
        seed: Any whole number.

    Returns:
        By stack; arrays of ``[rows, width]`` float32, sharded by rows. No device ever holds more
        than its own rows.

    Raises:
        SpecError: If plan, specs and mesh do not fit.
    """
    if mesh.size != plan.topology.devices:
        raise SpecError(
            f"the plan is for {plan.topology.devices} devices, the mesh has {mesh.size}; "
            "build a plan for this mesh"
        )
    tables = get_table_specs(apply_plan(plan, feature_specs))
    rows_spec = PartitionSpec(_all_axes(mesh), None)
    make = jax.shard_map(
        functools.partial(_local_variables, plan=plan, tables=tables, axes=mesh.axis_names),
        mesh=mesh,
        in_specs=PartitionSpec(),
        out_specs=rows_spec,
        check_vma=False,
    )
    # Threefry whatever the default is: the values must not depend on a flag or platform.
    key = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
    made = jax.jit(make, out_shardings=NamedSharding(mesh, rows_spec))(np.asarray(key))
    return dict(made)


def _all_axes(mesh: Mesh) -> str | tuple[str, ...]:
    return mesh.axis_names[0] if len(mesh.axis_names) == 1 else tuple(mesh.axis_names)


def _local_variables(
    key_data: jax.Array,
    *,
    plan: EmbeddingPlan,
    tables: Mapping[str, TableSpec],
    axes: tuple[str, ...],
) -> dict[str, EmbeddingVariables]:
    """This device's rows of all stacks; runs inside shard_map."""
    key = jax.random.wrap_key_data(key_data, impl="threefry2x32")
    per_device = plan.topology.sparsecores_per_device
    cores = jax.lax.axis_index(axes) * per_device + jnp.arange(per_device, dtype=jnp.int32)
    return {stack.name: _local_stack(key, stack, plan, tables, cores) for stack in plan.stacks}


def _local_stack(
    key: jax.Array,
    stack: StackPlan,
    plan: EmbeddingPlan,
    tables: Mapping[str, TableSpec],
    cores: jax.Array,
) -> EmbeddingVariables:
    sparsecores = plan.topology.sparsecores
    table_parts: list[jax.Array] = []
    slot_parts: list[tuple[jax.Array, ...]] = []
    slots: tuple[Initializer, ...] = ()
    for placement in stack.tables:
        spec = tables[placement.table]
        local = jnp.arange(placement.padded_vocab_size // sparsecores, dtype=jnp.int32)
        # The inverse of the placement: which logical row lies here.
        rows = local[None, :] * sparsecores + (
            (cores[:, None] - placement.shard_rotation) % sparsecores
        )
        table_key = jax.random.fold_in(key, _name_number(spec.name))
        values = _per_row(spec.initializer, table_key, rows, spec.embedding_dim)
        values = jnp.where((rows < spec.vocabulary_size)[..., None], values, 0.0)
        padding = stack.width - spec.embedding_dim
        table_parts.append(jnp.pad(values, ((0, 0), (0, 0), (0, padding))))
        slots = spec.optimizer.slot_variables_initializers()
        slot_parts.append(_slot_values(spec, slots, table_key, rows, stack.width))
    table = jnp.concatenate(table_parts, axis=1).reshape(-1, stack.width)
    slot_arrays = [
        jnp.concatenate(parts, axis=1).reshape(-1, parts[0].shape[-1])
        for parts in zip(*slot_parts, strict=True)
    ]
    return EmbeddingVariables(table, _like(slots, slot_arrays))


def _slot_values(
    spec: TableSpec,
    slots: tuple[Initializer, ...],
    table_key: jax.Array,
    rows: jax.Array,
    width: int,
) -> tuple[jax.Array, ...]:
    """``[per device, rows, slot width]`` per slot."""
    used = spec.optimizer.slot_variables_widths(spec.embedding_dim)
    padded = spec.optimizer.slot_variables_widths(width)
    result = []
    for number, (initializer, columns, total) in enumerate(zip(slots, used, padded, strict=True)):
        key = jax.random.fold_in(table_key, _name_number(f"slot {number}"))
        parts = [_per_row(initializer, key, rows, columns)]
        if total > columns:
            extra = jax.random.fold_in(key, _name_number("padding"))
            parts.append(_per_row(initializer, extra, rows, total - columns))
        result.append(jnp.concatenate(parts, axis=-1))
    return tuple(result)


def _per_row(initializer: Initializer, key: jax.Array, rows: jax.Array, columns: int) -> jax.Array:
    """``[..., columns]``: the initializer called once per row, with the row's own key."""

    def one(row: jax.Array) -> jax.Array:
        value = initializer(jax.random.fold_in(key, row), (1, columns))
        return jnp.asarray(value, dtype=jnp.float32).reshape(columns)

    return jax.vmap(one)(rows.reshape(-1)).reshape(*rows.shape, columns)


def _name_number(name: str) -> int:
    """A 32-bit number made from a name, the same in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def _like(template: tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    """A tuple of the template's type, a named one or a plain one."""
    kind: Callable[..., tuple[Any, ...]] | None = getattr(template, "_make", None)
    return tuple(values) if kind is None else kind(values)


def unstack_variables(
    plan: EmbeddingPlan, variables: Mapping[str, EmbeddingVariables]
) -> dict[str, EmbeddingVariables]:
    """Logical tables and slots as numpy arrays, by table: ``[vocabulary_size, columns]``.

    Args:
        plan: The plan the variables were made for.
        variables: Arrays that this process can read in full (numpy, or all devices local).
    """
    result: dict[str, EmbeddingVariables] = {}
    sparsecores = plan.topology.sparsecores
    for stack in plan.stacks:
        mine = variables[stack.name]
        table, slots = np.asarray(mine.table), [np.asarray(slot) for slot in mine.slot]
        for place in stack.tables:
            spec = plan.table(place.table)
            where = {"rotation": place.shard_rotation, "row_offset": place.row_offset_in_shard}
            read = functools.partial(
                from_shards, sparsecores=sparsecores, vocabulary_size=spec.vocabulary_size, **where
            )
            # A slot as wide as the table is padded as it is; a narrower one has no padding.
            logical = [
                read(slot, embedding_dim=min(spec.embedding_dim, slot.shape[1])) for slot in slots
            ]
            result[place.table] = EmbeddingVariables(
                read(table, embedding_dim=spec.embedding_dim), _like(mine.slot, logical)
            )
    return result


def unstack_tables(
    plan: EmbeddingPlan, variables: Mapping[str, EmbeddingVariables]
) -> dict[str, np.ndarray]:
    """Logical tables as numpy arrays, by table: ``[vocabulary_size, embedding_dim]``."""
    return {name: logical.table for name, logical in unstack_variables(plan, variables).items()}


def stack_tables_into(
    plan: EmbeddingPlan,
    variables: Mapping[str, EmbeddingVariables],
    logical: Mapping[str, EmbeddingVariables],
) -> dict[str, EmbeddingVariables]:
    """Logical tables and slots put into (copies of) stacked ones: the inverse of unstacking.

    Args:
        plan: The plan the stacked variables are for.
        variables: Stacked variables that give padding its values.
        logical: By table, as `unstack_variables` returns them; tables not named keep their values.

    Returns:
        By stack, as numpy arrays.
    """
    result: dict[str, EmbeddingVariables] = {}
    for stack in plan.stacks:
        mine = variables[stack.name]
        arrays = [np.array(array) for array in (mine.table, *mine.slot)]
        for place in stack.tables:
            if place.table not in logical:
                continue
            given = logical[place.table]
            for array, value in zip(arrays, (given.table, *given.slot), strict=True):
                to_shards(
                    array,
                    np.asarray(value),
                    plan.topology.sparsecores,
                    rotation=place.shard_rotation,
                    row_offset=place.row_offset_in_shard,
                )
        result[stack.name] = EmbeddingVariables(arrays[0], _like(mine.slot, arrays[1:]))
    return result


def init_embedding_variables(
    rng: jax.Array,
    table_specs: Nested[TableSpec],
    global_sharding: NamedSharding,
    num_sparsecore_per_device: int | None = None,
    bypass_mesh_check: bool = False,
) -> dict[str, EmbeddingVariables]:
    """First values of all tables and slots, made shard by shard.

    The values are those jax-tpu-embedding makes from the same key: they depend on the number of
    SparseCores and on stacking. `initialize_tables` makes values that do not.

    Args:
        rng: A key of `jax.random`.
        table_specs: Stacked tables.
        global_sharding: ``PartitionSpec(axis, None)`` for arrays ``[rows, width]``, or
            ``PartitionSpec(axis, None, None)`` for ``[devices, rows of a device, width]``.
        num_sparsecore_per_device: SparseCores of a device; None asks the first device.
        bypass_mesh_check: Accept a mesh whose devices are not `jax.devices()` in order.

    Raises:
        SpecError: If sharding or mesh are of another form.
    """
    per_device = check_num_sparsecores(num_sparsecore_per_device)
    spec, mesh = global_sharding.spec, global_sharding.mesh
    axis = next((part for part in spec if part is not None), None)
    two, three = PartitionSpec(axis, None), PartitionSpec(axis, None, None)
    if axis is None or spec not in (two, three):
        raise SpecError(
            f"global_sharding has {spec}; use PartitionSpec('{mesh.axis_names[0]}', None), or "
            f"PartitionSpec('{mesh.axis_names[0]}', None, None) with a leading device dimension"
        )
    devices = [] if mesh.devices is None else list(mesh.devices.flatten())
    if not bypass_mesh_check and devices != jax.devices():
        raise SpecError(
            f"the mesh has devices {devices}, not jax.devices() in order; "
            "make it with the default order, or pass bypass_mesh_check=True"
        )
    stacks: dict[str, list[TableSpec]] = defaultdict(list)
    for table in tree_leaves(table_specs):
        stacks[table.setting_in_stack.stack_name].append(table)

    shards = mesh.size * per_device
    keys = jax.random.split(rng, shards * len(stacks))
    result: dict[str, EmbeddingVariables] = {}
    for number, (name, tables) in enumerate(stacks.items()):
        tables.sort(key=lambda table: table.setting_in_stack.row_offset_in_shard)
        make = jax.shard_map(
            functools.partial(
                _shards_of_device, tables=tables, shards=shards, leading=spec == three
            ),
            mesh=mesh,
            in_specs=PartitionSpec(axis),
            out_specs=spec,
            check_vma=False,
        )
        mine = keys[number * shards : (number + 1) * shards]
        result[name] = jax.jit(make, out_shardings=global_sharding)(mine)
    return result


def _shards_of_device(
    keys: jax.Array, *, tables: list[TableSpec], shards: int, leading: bool
) -> EmbeddingVariables:
    parts = [_one_shard(key, table, shards) for key in keys for table in tables]
    stacked = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)
    return jax.tree.map(lambda array: array[None], stacked) if leading else stacked


def _one_shard(key: jax.Array, table: TableSpec, shards: int) -> EmbeddingVariables:
    setting = table.setting_in_stack
    rows, width = setting.padded_vocab_size // shards, setting.padded_embedding_dim
    optimizer: OptimizerSpec = table.optimizer
    slots = optimizer.slot_variables_initializers()
    widths = optimizer.slot_variables_widths(width)
    return EmbeddingVariables(
        table.initializer(key, (rows, width)),
        _like(
            slots,
            [make(key, (rows, columns)) for make, columns in zip(slots, widths, strict=True)],
        ),
    )
