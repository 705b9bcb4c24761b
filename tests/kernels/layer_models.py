"""Two small models with the embedding layer, and the same training on plain tables."""

from __future__ import annotations

import re

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

import kernels
from kernels.layers import linen as linen_layer
from kernels.layers import nnx as nnx_layer
from kernels.planning.placed import plan_of_placed

BATCH = 32
DEVICES = 4
PER_DEVICE = 4
RATE = 0.1


def mesh_of(devices=DEVICES, axis="x"):
    return Mesh(np.array(jax.devices()[:devices]), (axis,))


def feature_specs(optimizer=None, devices=DEVICES, per_device=PER_DEVICE, stack=True, batch=BATCH):
    """Three features on two tables of different sizes."""
    optimizer = optimizer or kernels.AdagradOptimizerSpec(RATE)
    table = lambda name, rows, columns, combiner: kernels.TableSpec(  # noqa: E731
        name=name, vocabulary_size=rows, embedding_dim=columns, optimizer=optimizer,
        initializer=jax.nn.initializers.normal(0.3), combiner=combiner,
        max_ids_per_partition=256, max_unique_ids_per_partition=256,
    )  # fmt: skip
    users, items = table("users", 100, 6, "sum"), table("items", 37, 8, "sum")
    feature = lambda name, table, valency: kernels.FeatureSpec(  # noqa: E731
        name=name, table_spec=table, input_shape=(batch, valency),
        output_shape=(batch, table.embedding_dim),
    )  # fmt: skip
    specs = {
        "user": feature("user", users, 1),
        "seen": feature("seen", items, 3),
        "item": feature("item", items, 1),
    }
    if stack:
        kernels.auto_stack_tables(specs, devices, per_device)
    kernels.prepare_feature_specs_for_training(specs, devices, per_device)
    return specs


def one_large_table():
    """A feature on a table whose rows, 10000 a device, are unlike any other size."""
    table = kernels.TableSpec(
        name="large", vocabulary_size=40000, embedding_dim=8, combiner="sum",
        initializer=jax.nn.initializers.zeros, optimizer=kernels.AdagradOptimizerSpec(RATE),
    )  # fmt: skip
    shapes = {"input_shape": (BATCH, 2), "output_shape": (BATCH, 8)}
    specs = {"large": kernels.FeatureSpec(name="large", table_spec=table, **shapes)}
    kernels.prepare_feature_specs_for_training(specs, DEVICES, 1)
    return specs


def copies_of_the_large_table(compiled_text):
    """Operations of a compiled step that copy or gather a device's rows of `one_large_table`."""
    assert "f32[10000,8]" in compiled_text
    rows = re.compile(r"f32\[(10000|40000),8\]\S* (copy|copy-start|all-gather|fusion|add)\(")
    return [line for line in compiled_text.splitlines() if rows.search(line)]


def batches(count, specs, seed=0):
    """Ids and labels; a label depends on the user's id alone, which tables alone can learn."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        ids = {
            name: rng.integers(0, spec.table_spec.vocabulary_size, spec.input_shape, np.int32)
            for name, spec in specs.items()
        }
        label = (ids["user"][:, 0] % 2).astype(np.float32)
        yield ids, label


def loss_of(logits, labels):
    return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels).mean()


def joined(activations):
    return jnp.concatenate([activations[name] for name in sorted(activations)], axis=1)


class LinenModel(flax.linen.Module):
    layer: linen_layer.SparseCoreEmbed

    @flax.linen.compact
    def __call__(self, batch, step=None):
        hidden = flax.linen.Dense(16)(joined(self.layer(batch, step)))
        return flax.linen.Dense(1)(flax.linen.tanh(hidden))


class NnxModel(nnx.Module):
    def __init__(self, specs, mesh, seed=0):
        rngs = nnx.Rngs(seed)
        self.embedding = nnx_layer.SparseCoreEmbed(specs, "x", mesh, rngs)
        columns = sum(spec.output_shape[-1] for spec in specs.values())
        self.hidden = nnx.Linear(columns, 16, rngs=rngs)
        self.out = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, batch, step=None):
        hidden = self.hidden(joined(self.embedding(batch, step)))
        return self.out(nnx.tanh(hidden))


def whole(specs, tables, devices=DEVICES, per_device=PER_DEVICE):
    """Logical tables and slots, by table, in numpy."""
    plan = plan_of_placed(specs, kernels.Topology(1, devices, per_device))
    return kernels.unstack_variables(plan, tables)


def train_plainly(specs, tables, dense, apply_dense, optimizer, data):
    """The same training with whole tables on one device.

    Args:
        specs: Features.
        tables: By table, its rows and slots.
        dense: Parameters of the dense part.
        apply_dense: (parameters, activations by feature) → logits.
        optimizer: Optax optimizer of the dense part.
        data: Pairs of ids and labels.

    Returns:
        Tables, dense parameters, losses.
    """
    state = optimizer.init(dense)
    rows = {name: jnp.asarray(value.table) for name, value in tables.items()}
    slots = {name: value.slot for name, value in tables.items()}
    tables_of = kernels.get_table_specs(specs)

    @jax.jit
    def one(dense, rows, slots, state, step, ids, labels):
        def loss(dense, rows):
            activations = {
                name: rows[spec.table_spec.name][ids[name]].sum(axis=1)
                for name, spec in specs.items()
            }
            return loss_of(apply_dense(dense, activations), labels)

        value, (dense_gradient, gradient) = jax.value_and_grad(loss, argnums=(0, 1))(dense, rows)
        updates, state = optimizer.update(dense_gradient, state, dense)
        for name, spec in tables_of.items():
            touched = jnp.zeros(rows[name].shape[0], bool)
            for feature, of in specs.items():
                if of.table_spec.name == name:
                    touched = touched.at[ids[feature].reshape(-1)].set(True)
            new, new_slots = spec.optimizer.update(
                gradient[name], rows[name], slots[name],
                spec.optimizer.get_hyperparameters(step), embedding_dim=spec.embedding_dim,
            )  # fmt: skip
            pick = lambda a, b, t=touched: jnp.where(t[:, None], a, b)  # noqa: E731
            rows = rows | {name: pick(new, rows[name])}
            slots = slots | {name: tuple(map(pick, new_slots, slots[name]))}
        return optax.apply_updates(dense, updates), rows, slots, state, value

    losses = []
    for step, (ids, labels) in enumerate(data):
        dense, rows, slots, state, value = one(dense, rows, slots, state, step, ids, labels)
        losses.append(float(value))
    return {n: (rows[n], slots[n]) for n in rows}, dense, losses


def with_rows_that_hold_their_id(specs, tables):
    """Logical tables whose rows hold their id in every column, and the same stacked, in place."""
    logical = {
        name: value._replace(
            table=np.tile(np.arange(len(value.table))[:, None], value.table.shape[1])
        )
        for name, value in whole(specs, tables).items()
    }
    plan = plan_of_placed(specs, kernels.Topology(1, DEVICES, PER_DEVICE))
    stacked = kernels.stack_tables_into(plan, tables, logical)
    return logical, jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding), stacked, tables
    )


def assert_sums_of_ids(activations, ids):
    for name, activation in activations.items():
        want = np.broadcast_to(ids[name].sum(1, keepdims=True), activation.shape)
        np.testing.assert_array_equal(activation, want)


def assert_moved_by_counts(specs, after, before, ids, rate):
    """SGD with gradients of 1 moved each row by the rate, as often as the batch named it."""
    for name, rows in before.items():
        counts = np.zeros(len(rows.table))
        for feature, spec in specs.items():
            if spec.table_spec.name == name:
                np.add.at(counts, ids[feature].reshape(-1), 1)
        want = rows.table - rate * counts[:, None]
        np.testing.assert_allclose(after[name].table, want, rtol=1e-6)


def assert_same_tables(found, wanted, rtol=2e-4, atol=2e-5):
    assert found.keys() == wanted.keys()
    for name, (table, slots) in wanted.items():
        np.testing.assert_allclose(found[name].table, table, rtol, atol, err_msg=name)
        assert len(found[name].slot) == len(slots)
        for mine, other in zip(found[name].slot, slots, strict=True):
            np.testing.assert_allclose(mine, other, rtol, atol, err_msg=name)
