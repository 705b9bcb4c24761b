"""First values of tables and slot variables, made where they will lie."""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kernels.errors import SpecError
from kernels.optimizers.base import Initializer, OptimizerSpec
from kernels.planning.build import apply_plan
from kernels.planning.plan import EmbeddingPlan, StackPlan, TablePlacement
from kernels.planning.stacking import get_table_specs
from kernels.specs import FeatureSpec, Nested, TableSpec
from kernels.table_format import embedding_table_format_with_sharding
from kernels.utils import check_num_sparsecores, tree_leaves
from kernels.variables import EmbeddingVariables, EmbeddingVariablesInitializer, like_slots

__all__ = ["init_embedding_variables", "initialize_tables"]


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
    with jax.ensure_compile_time_eval():  # so that shapes can be had by eval_shape
        key = np.asarray(jax.random.key_data(jax.random.key(seed, impl="threefry2x32")))
    stored = embedding_table_format_with_sharding(NamedSharding(mesh, rows_spec))
    made = jax.jit(make, out_shardings=stored)(key)
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
    rows = {
        placement.table: _logical_rows(placement, cores, plan.topology.sparsecores)
        for stack in plan.stacks
        for placement in stack.tables
    }
    calls = _InitializerCalls(key)
    for stack in plan.stacks:
        for placement in stack.tables:
            spec = tables[placement.table]
            calls.add((spec.name, "table"), spec.initializer, rows[spec.name], spec.embedding_dim)
            for number, (make, columns) in enumerate(_slot_columns(spec, stack.width)):
                for part, width in columns.items():
                    calls.add((spec.name, f"slot {number}{part}"), make, rows[spec.name], width)
    values = calls.run()
    return {stack.name: _assemble(stack, tables, rows, values) for stack in plan.stacks}


def _logical_rows(placement: TablePlacement, cores: jax.Array, sparsecores: int) -> jax.Array:
    """``[SparseCores here, rows of a shard]``: which row of the table lies where."""
    local = jnp.arange(placement.padded_vocab_size // sparsecores, dtype=jnp.int32)
    first = (cores - placement.shard_rotation) % sparsecores
    return local[None, :] * sparsecores + first[:, None]


def _slot_columns(spec: TableSpec, width: int) -> list[tuple[Initializer, dict[str, int]]]:
    """Per slot: its initializer, its columns in use and, under another name, its padding."""
    used = spec.optimizer.slot_variables_widths(spec.embedding_dim)
    padded = spec.optimizer.slot_variables_widths(width)
    makers = spec.optimizer.slot_variables_initializers()
    return [
        (make, {"": columns} | ({" padding": total - columns} if total > columns else {}))
        for make, columns, total in zip(makers, used, padded, strict=True)
    ]


def _assemble(
    stack: StackPlan,
    tables: Mapping[str, TableSpec],
    rows: Mapping[str, jax.Array],
    values: Mapping[tuple[str, str], jax.Array],
) -> EmbeddingVariables:
    table_parts: list[jax.Array] = []
    slot_parts: list[list[jax.Array]] = []
    for placement in stack.tables:
        spec = tables[placement.table]
        real = (rows[spec.name] < spec.vocabulary_size)[..., None]
        table = jnp.where(real, values[spec.name, "table"], 0.0)
        missing = stack.width - spec.embedding_dim
        table_parts.append(jnp.pad(table, ((0, 0), (0, 0), (0, missing))))
        slot_parts.append(
            [
                jnp.concatenate(
                    [values[spec.name, f"slot {number}{part}"] for part in columns], axis=-1
                )
                for number, (_, columns) in enumerate(_slot_columns(spec, stack.width))
            ]
        )
    slots = [jnp.concatenate(parts, axis=1) for parts in zip(*slot_parts, strict=True)]
    template = tables[stack.tables[0].table].optimizer.slot_variables_initializers()
    return EmbeddingVariables(
        jnp.concatenate(table_parts, axis=1).reshape(-1, stack.width),
        like_slots(template, [slot.reshape(-1, slot.shape[-1]) for slot in slots]),
    )


class _InitializerCalls:
    """Calls of initializers, once per row, gathered so that equal ones are compiled once."""

    def __init__(self, key: jax.Array) -> None:
        self._key = key
        self._calls: dict[tuple[Initializer, int], dict[tuple[str, str], jax.Array]] = {}

    def add(self, name: tuple[str, str], make: Initializer, rows: jax.Array, columns: int) -> None:
        """Ask for ``make(key, (1, columns))`` for each of ``rows``."""
        self._calls.setdefault((make, columns), {})[name] = rows

    def run(self) -> dict[tuple[str, str], jax.Array]:
        """``[..., columns]`` for every name, with the shape of its rows before the columns."""
        result: dict[tuple[str, str], jax.Array] = {}
        for (make, columns), asked in self._calls.items():

            def one(key: jax.Array, row: jax.Array) -> jax.Array:
                value = make(jax.random.fold_in(key, row), (1, columns))  # noqa: B023 - called here
                return jnp.asarray(value, dtype=jnp.float32).reshape(columns)  # noqa: B023

            numbers = np.array([_name_number(*name) for name in asked], dtype=np.uint32)
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(self._key, numbers)
            parts = [part.reshape(-1) for part in asked.values()]
            of_row = [
                jnp.broadcast_to(key, part.shape) for key, part in zip(keys, parts, strict=True)
            ]
            values = jax.vmap(one)(jnp.concatenate(of_row), jnp.concatenate(parts))
            ends = np.cumsum([part.size for part in asked.values()])
            for (name, part), value in zip(
                asked.items(), jnp.split(values, ends[:-1]), strict=True
            ):
                result[name] = value.reshape(*part.shape, columns)
        return result


def _name_number(table: str, part: str) -> int:
    """A 32-bit number made from names, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{part}/{table}".encode()).digest()[:4], "little")


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
            "PartitionSpec of the global sharding either needs to be in the format "
            f"PartitionSpec('{mesh.axis_names[0]}', None), or, with a leading device dimension, "
            f"PartitionSpec('{mesh.axis_names[0]}', None, None); got {spec}"
        )
    devices = [] if mesh.devices is None else list(mesh.devices.flatten())
    if not bypass_mesh_check and devices != jax.devices():
        raise SpecError(
            "global_sharding needs to be created with default device order from jax.devices() "
            f"({jax.devices()}), but its mesh has {devices}; make the mesh in that order, or pass "
            "bypass_mesh_check=True"
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
        if mesh.axis_types and AxisType.Explicit in mesh.axis_types:  # JAX does not move them then
            mine = jax.device_put(mine, NamedSharding(mesh, PartitionSpec(axis)))
        stored = (
            embedding_table_format_with_sharding(global_sharding)
            if spec == two
            else global_sharding
        )
        result[name] = jax.jit(make, out_shardings=stored)(mine)
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
    first = EmbeddingVariablesInitializer(
        table.initializer, optimizer.slot_variables_initializers()
    )
    widths = optimizer.slot_variables_widths(width)
    return EmbeddingVariables(
        first.table(key, (rows, width)),
        like_slots(
            first.slot,
            [make(key, (rows, columns)) for make, columns in zip(first.slot, widths, strict=True)],
        ),
    )
