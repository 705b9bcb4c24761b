from __future__ import annotations

import json
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import kernels
from kernels import utils
from kernels.layers import checkpoint_utils
from kernels.layers.checkpoint_tables import SavedLayout
from kernels.layers.nnx import PartitionedOptimizer
from kernels.planning.placed import plan_of_placed, specs_of_plan
from tests.kernels.layer_models import NnxModel, feature_specs, mesh_of, whole

OPTIONS = ocp.CheckpointManagerOptions
ADAM = kernels.AdamOptimizerSpec(0.1)


@pytest.fixture(autouse=True)
def two_sparsecores(monkeypatch):
    monkeypatch.setenv(utils.EMULATED_SPARSECORES, "2")


def model_on(devices, seed, optimizer=ADAM, per_device=2, stack=True):
    """A model whose tables and slots are all random, its optimizer and its features."""
    specs = feature_specs(optimizer, devices, per_device, stack)
    model = NnxModel(specs, mesh_of(devices), seed)
    rng = np.random.default_rng(seed)
    tables = jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(np.float32), leaf.sharding),
        model.embedding.embedding_table.get_value(),
    )
    model.embedding.embedding_table.set_value(tables)
    dense = PartitionedOptimizer(model, optax.adam(0.01 * (1 + seed)))
    state = nnx.state(dense, nnx.OptState)
    nnx.update(dense, jax.tree.map(lambda leaf: leaf + seed, state))
    return model, dense, specs


def contents(model, optimizer, specs, devices, per_device=2):
    """Whole tables with slots, dense parameters, and the optimizer's state."""
    tables = whole(specs, model.embedding.embedding_table.get_value(), devices, per_device)
    dense = nnx.to_pure_dict(nnx.state(model, lambda path, _: "embedding" not in path))
    return jax.tree.map(
        np.asarray, (tables, dense, nnx.to_pure_dict(nnx.state(optimizer, nnx.OptState)))
    )


def save(folder, model, optimizer, specs, devices, step=7, per_device=2):
    manager = checkpoint_utils.create_checkpoint_manager(cp_path=folder, cp_options=OPTIONS())
    checkpoint_utils.save_checkpoint(
        cp_manager=manager, step=step, model=model, optimizer=optimizer, feature_specs=specs,
        num_global_devices=devices, num_sc_per_device=per_device,
    )  # fmt: skip
    manager.wait_until_finished()
    return manager


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of 4 devices with 2 SparseCores each, and what is in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(utils.EMULATED_SPARSECORES, "2")
        folder = tmp_path_factory.mktemp("saved")
        model, optimizer, specs = model_on(4, seed=1)
        save(folder, model, optimizer, specs, 4).close()
        return folder, contents(model, optimizer, specs, 4)


def test_restore_gives_every_row_slot_and_parameter_back(saved):
    folder, wanted = saved
    model, optimizer, specs = model_on(4, seed=2)
    checkpoint_utils.restore_checkpoint(model=model, optimizer=optimizer)  # nothing to restore
    before = contents(model, optimizer, specs, 4)
    assert not np.array_equal(before[0]["users"].table, wanted[0]["users"].table)
    shardings = jax.tree.map(lambda a: a.sharding, model.embedding.embedding_table.get_value())
    checkpoint_utils.restore_checkpoint(
        input_checkpoint_path=folder, model=model, optimizer=optimizer
    )
    assert_same(contents(model, optimizer, specs, 4), wanted)
    after = model.embedding.embedding_table.get_value()
    assert jax.tree.map(lambda a: a.sharding, after) == shardings


@pytest.mark.parametrize(("devices", "per_device"), [(2, 2), (8, 2), (4, 1), (1, 4)])
def test_restore_on_another_mesh(saved, monkeypatch, devices, per_device):
    folder, wanted = saved
    monkeypatch.setenv(utils.EMULATED_SPARSECORES, str(per_device))
    model, optimizer, specs = model_on(devices, seed=2, per_device=per_device)
    before = model.embedding.embedding_table.get_value()
    padding = np.asarray(before["items_users"].table)[:, 6:]
    checkpoint_utils.restore_cross_topology_checkpoint(
        cross_topology_checkpoint_restore_path=folder, model=model, optimizer=optimizer,
        target_feature_specs=specs, num_global_devices=devices, num_sc_per_device=per_device,
    )  # fmt: skip
    assert_same(contents(model, optimizer, specs, devices, per_device), wanted)
    after = model.embedding.embedding_table.get_value()
    assert jax.tree.map(lambda a: a.sharding, after) == jax.tree.map(lambda a: a.sharding, before)
    # The model's own padding stays: users have 6 of 8 columns.
    rows = np.asarray(after["items_users"].table)[:, 6:]
    assert (rows == padding).all(axis=1).sum() >= 100


def test_restore_with_other_stacks(saved):
    folder, wanted = saved
    model, optimizer, specs = model_on(4, seed=2, stack=False)
    assert model.embedding.embedding_table.get_value().keys() == {"users", "items"}
    checkpoint_utils.restore_cross_topology_checkpoint(
        cross_topology_checkpoint_restore_path=folder, model=model, optimizer=optimizer,
        target_feature_specs=specs, num_global_devices=4, num_sc_per_device=2,
        embedding_layer_name="embedding", restore_step=7,
    )  # fmt: skip
    assert_same(contents(model, optimizer, specs, 4), wanted)


@pytest.mark.parametrize("optimizer", [kernels.SGDOptimizerSpec(0.1),
                                       kernels.RowWiseAdagradOptimizerSpec(0.1)])  # fmt: skip
def test_slots_may_be_none_or_narrow(tmp_path, optimizer):
    model, dense, specs = model_on(2, 1, optimizer)
    save(tmp_path, model, dense, specs, 2).close()
    wanted = contents(model, dense, specs, 2)
    model, dense, specs = model_on(4, 2, optimizer)
    checkpoint_utils.restore_cross_topology_checkpoint(
        cross_topology_checkpoint_restore_path=tmp_path, model=model, optimizer=dense,
        target_feature_specs=specs, num_global_devices=4, num_sc_per_device=2,
    )  # fmt: skip
    assert_same(contents(model, dense, specs, 4), wanted)


@pytest.mark.parametrize("given_specs", [True, False])
def test_a_converted_checkpoint_is_one_of_the_other_mesh(saved, tmp_path, given_specs):
    folder, wanted = saved
    model, optimizer, specs = model_on(2, seed=3)
    checkpoint_utils.convert_cross_topology_checkpoint(
        input_checkpoint_path=folder,
        output_checkpoint_path=tmp_path / "new",
        target_topology=checkpoint_utils.TargetTopology(2, 2, "TPU v6e"),
        target_feature_specs=specs if given_specs else None,
        save_step=9,
    )
    checkpoint_utils.restore_checkpoint(
        input_checkpoint_path=tmp_path / "new", step=9, model=model, optimizer=optimizer
    )
    assert_same(contents(model, optimizer, specs, 2), wanted)


def test_a_checkpoint_converted_for_no_mesh_holds_whole_tables(saved, tmp_path):
    folder, wanted = saved
    checkpoint_utils.convert_cross_topology_checkpoint(
        input_checkpoint_path=folder, output_checkpoint_path=tmp_path
    )
    with checkpoint_utils.create_checkpoint_manager(
        cp_path=tmp_path, cp_options=OPTIONS(read_only=True)
    ) as manager:
        items = manager.restore(7, args=ocp.args.Composite(
            model=ocp.args.StandardRestore(), embedding_spec=ocp.args.JsonRestore()))  # fmt: skip
    tables = items["model"]["embedding"]["embedding_table"]["value"]
    assert tables.keys() == wanted[0].keys()
    for name, (table, slots) in wanted[0].items():
        np.testing.assert_array_equal(tables[name]["table"], table)
        np.testing.assert_array_equal(tables[name]["slot"]["momentum"], slots.momentum)
        np.testing.assert_array_equal(tables[name]["slot"]["velocity"], slots.velocity)
    plan = kernels.EmbeddingPlan.from_json(items["embedding_spec"]["plan"])
    assert {stack.name for stack in plan.stacks} == {"items_users"}


def test_any_state_with_tables_can_be_converted(tmp_path):
    """Slots as a mapping, other keys, a state that is no model's."""
    specs = feature_specs(ADAM, 4, 2)
    layout = SavedLayout.of(specs, 4, 2)
    keys = {"model_key": "m", "optimizer_key": "o", "embedding_spec_key": "e"}
    rows = np.arange(layout.plan.stacks[0].vocab_size * 8, dtype=np.float32).reshape(-1, 8)
    state = {"deep": {"embedding_table": {"items_users": {"table": rows, "slot": {"b": rows + 1}}}}}
    with checkpoint_utils.create_checkpoint_manager(
        cp_path=tmp_path / "old", cp_options=OPTIONS(), **keys
    ) as manager:
        manager.save(1, args=ocp.args.Composite(
            m=ocp.args.StandardSave(state), o=ocp.args.StandardSave({"step": jnp.ones(())}),
            e=ocp.args.JsonSave(layout.to_json())))  # fmt: skip
        manager.wait_until_finished()
    for name, mesh in {"back": (2, 1), "forth": (4, 2)}.items():
        checkpoint_utils.convert_cross_topology_checkpoint(
            input_checkpoint_path=tmp_path / ("old" if name == "back" else "back"),
            output_checkpoint_path=tmp_path / name,
            target_topology=checkpoint_utils.TargetTopology(*mesh), **keys,
        )  # fmt: skip
    with checkpoint_utils.create_checkpoint_manager(
        cp_path=tmp_path / "forth", cp_options=OPTIONS(read_only=True), **keys
    ) as manager:
        found = manager.restore(1, args=ocp.args.Composite(m=ocp.args.StandardRestore()))["m"]
    stack = found["deep"]["embedding_table"]["items_users"]
    as_whole = lambda table: whole(specs, {"items_users": kernels.EmbeddingVariables(table, ())},  # noqa: E731
                                   4, 2)  # fmt: skip
    assert_same(as_whole(stack["table"]), as_whole(rows))
    assert_same(as_whole(stack["slot"]["b"]), as_whole(rows + 1))


def wide_specs(devices, per_device, limit=None):
    """Four tables whose activations fill 2 MiB of 32 SparseCores, in an order not alphabetical."""
    specs = []
    for name in ("d", "a", "c", "b"):
        table = kernels.TableSpec(
            name=name, vocabulary_size=64, embedding_dim=640, combiner="sum", optimizer=ADAM,
            initializer=jax.nn.initializers.ones,
        )  # fmt: skip
        shapes = {"input_shape": (2048, 1), "output_shape": (2048, 640)}
        specs.append(kernels.FeatureSpec(name=f"of_{name}", table_spec=table, **shapes))
    kernels.auto_stack_tables(specs, devices, per_device, activation_mem_bytes_limit=limit)
    return specs


def stacks_of(layout):
    return {stack.name for stack in layout.plan.stacks}


def test_tables_are_stacked_anew_for_another_mesh():
    one = SavedLayout.of(wide_specs(8, 2), 8, 2)
    assert stacks_of(one) == {"d_a_c_b"}
    # Half the SparseCores: twice the activations on each, which now takes two stacks.
    assert stacks_of(one.for_mesh(4, 2)) == {"d_a_c", "b"}
    assert stacks_of(one.for_mesh(4, 2)) == stacks_of(SavedLayout.of(wide_specs(4, 2), 4, 2))
    assert stacks_of(one.for_mesh(4, 2, batch_size=1024)) == {"d_a_c_b"}
    assert stacks_of(one.for_mesh(16, 2)) == {"d_a_c_b"}
    wide = SavedLayout.of(wide_specs(8, 2, limit=1 << 26), 8, 2)
    assert stacks_of(wide.for_mesh(1, 2)) == {"d_a_c_b"}
    assert SavedLayout.from_json(json.loads(json.dumps(wide.to_json()))) == wide


def test_tables_stacked_by_hand_stay_together():
    specs = feature_specs(ADAM, 4, 2, stack=False)
    assert stacks_of(SavedLayout.of(specs, 4, 2).for_mesh(2, 2)) == {"users", "items"}


def test_a_plan_read_off_placed_specs_gives_them_back():
    specs = feature_specs(ADAM, 4, 2)
    topology = kernels.Topology(1, 4, 2)
    plan = plan_of_placed(specs, topology)
    assert kernels.EmbeddingPlan.from_json(plan.to_json()) == plan
    again = specs_of_plan(plan)
    assert all(not spec.table_spec.is_stacked() for spec in again)
    kernels.auto_stack_tables(again, 4, 2)
    for spec in again:
        mine = specs[spec.name]
        assert spec.table_spec.setting_in_stack == mine.table_spec.setting_in_stack
        assert (spec.input_shape, spec.output_shape) == (mine.input_shape, mine.output_shape)
        assert spec.table_spec.optimizer == ADAM
    with pytest.raises(kernels.SpecError, match="pass the devices and SparseCores"):
        plan_of_placed(specs, kernels.Topology(1, 4, 4))
    with pytest.raises(kernels.SpecError, match="no whole number in one of"):
        specs_of_plan(plan_of_placed(specs, topology).__class__.from_json(
            plan.to_json().replace('"samples":32', '"samples":33', 1)), 16)  # fmt: skip


def test_what_cannot_be_restored_is_refused(saved, tmp_path):
    folder, _ = saved
    model, optimizer, specs = model_on(2, seed=2)
    both = {"model": model, "optimizer": optimizer}
    cross = {"target_feature_specs": specs, "num_global_devices": 2, "num_sc_per_device": 2}

    def restore(path=folder, **options):
        checkpoint_utils.restore_cross_topology_checkpoint(
            cross_topology_checkpoint_restore_path=path, **(both | cross | options)
        )

    restore(None)  # nothing to restore
    checkpoint_utils.convert_cross_topology_checkpoint(
        input_checkpoint_path=None, output_checkpoint_path=tmp_path
    )
    (tmp_path / "empty").mkdir()
    before = contents(model, optimizer, specs, 2)
    for match, call in {
        "No checkpoints found in": lambda: restore(tmp_path / "empty"),
        "Step 3 not found in checkpoint directory": lambda: restore(restore_step=3),
        'No "weights" found in checkpoint metadata': lambda: restore(model_key="weights"),
        "does not have an attribute named rows": lambda: restore(embedding_layer_name="rows"),
        "Attribute hidden in model is not of type": lambda: restore(embedding_layer_name="hidden"),
        "use restore_cross_topology_checkpoint": lambda: checkpoint_utils.restore_checkpoint(
            input_checkpoint_path=folder, **both
        ),
        "Could not automatically locate": lambda: restore(model=nnx.Linear(1, 1, rngs=nnx.Rngs(0))),
        "pass the devices and SparseCores": lambda: restore(num_global_devices=8),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()
    sgd, dense, sgd_specs = model_on(2, 2, kernels.SGDOptimizerSpec(0.1))
    with pytest.raises(kernels.SpecError, match="saved with 2 slot variables, the model has 0"):
        restore(model=sgd, optimizer=dense, target_feature_specs=sgd_specs)
    assert_same(contents(model, optimizer, specs, 2), before)
    with pytest.raises(kernels.SpecError, match="is not of this form"):
        SavedLayout.from_json({"something": 1})


def test_archives_are_unpacked_below_the_outputs(tmp_path, monkeypatch):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "file").write_text("rows")
    archive = tmp_path / "run.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "7", "7")
    monkeypatch.delenv("TEST_UNDECLARED_OUTPUTS_DIR", raising=False)
    with pytest.raises(ValueError, match="TEST_UNDECLARED_OUTPUTS_DIR environment variable is not"):
        checkpoint_utils.decompress_checkpoint(str(archive))
    monkeypatch.setenv("TEST_UNDECLARED_OUTPUTS_DIR", str(tmp_path / "out"))
    folder = checkpoint_utils.decompress_checkpoint(str(archive))
    assert folder == str(tmp_path / "out" / "decompressed_checkpoints" / "run")
    assert (tmp_path / "out" / "decompressed_checkpoints" / "run" / "7" / "file").read_text()
