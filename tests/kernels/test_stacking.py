"""Stacking gives what jax-tpu-embedding gives."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import table_stacking
from tests.kernels import peer
from tests.kernels.support import feature, table


@st.composite
def spec_lists(draw):
    combiners, rates = kernels.specs.COMBINERS, (0.1, 0.2)
    tables = [
        table(
            f"table_{'x' * draw(st.integers(0, 20))}_{number}",
            draw(st.integers(1, 3000)),
            draw(st.integers(1, 40)),
            combiner=draw(st.sampled_from(combiners)),
            optimizer=kernels.SGDOptimizerSpec(draw(st.sampled_from(rates))),
            max_ids_per_partition=draw(st.integers(1, 300)),
        )
        for number in range(draw(st.integers(1, 5)))
    ]
    features = [
        feature(f"f{number}", draw(st.sampled_from(tables)), 64 * draw(st.integers(1, 4)), 2)
        for number in range(draw(st.integers(1, 7)))
    ]
    return {f.name: f for f in features}


LIMITS = {
    "stack_to_max_ids_per_partition": lambda name, samples: samples + len(name),
    "stack_to_max_unique_ids_per_partition": lambda name, samples: samples // 2 + 1,
}


@given(
    specs=spec_lists(),
    devices=st.integers(1, 4),
    per_device=st.sampled_from([2, 4]),
    rotation=st.sampled_from([None, 0, 1, 3]),
    short=st.booleans(),
    activation_bytes=st.sampled_from([None, 3000, 20000]),
    limits=st.sampled_from([{}, LIMITS]),
)
@settings(max_examples=60, deadline=None)
def test_automatic_stacking_is_the_same(
    specs, devices, per_device, rotation, short, activation_bytes, limits
):
    theirs = peer.specs_like(specs)
    table_stacking.auto_stack_tables(
        specs,
        devices,
        per_device,
        rotation,
        use_short_stack_names=short,
        activation_mem_bytes_limit=activation_bytes,
        **limits,
    )
    kernels.prepare_feature_specs_for_training(specs, devices, per_device)
    peer.table_stacking.auto_stack_tables(
        theirs,
        devices,
        per_device,
        rotation,
        use_short_stack_names=short,
        activation_mem_bytes_limit=activation_bytes,
        **limits,
    )
    peer.embedding.prepare_feature_specs_for_training(theirs, devices, per_device)
    peer.assert_same_placement(specs, theirs)


@given(specs=spec_lists(), devices=st.integers(1, 4), per_device=st.sampled_from([2, 4]))
@settings(max_examples=40, deadline=None)
def test_tables_left_alone_are_the_same(specs, devices, per_device):
    theirs = peer.specs_like(specs)
    kernels.prepare_feature_specs_for_training(specs, devices, per_device)
    peer.embedding.prepare_feature_specs_for_training(theirs, devices, per_device)
    peer.assert_same_placement(specs, theirs)


def three(samples: int = 32, **options):
    tables = [table(name, 100 + 10 * n, 5 + n, **options) for n, name in enumerate("abc")]
    return {t.name: feature(t.name, t, samples) for t in tables}


def test_naming_the_tables_is_the_same():
    specs = three()
    theirs = peer.specs_like(specs)
    for stack, where in ((kernels.stack_tables, specs), (peer.table_stacking.stack_tables, theirs)):
        stack(where, ["c", "a"], 2, 4, rotation=3, stack_name="both")
    kernels.prepare_feature_specs_for_training(specs, 2, 4)
    peer.embedding.prepare_feature_specs_for_training(theirs, 2, 4)
    peer.assert_same_placement(specs, theirs)


def test_what_cannot_be_stacked_is_refused():
    specs = three()
    with pytest.raises(kernels.SpecError, match="named 2 times"):
        kernels.stack_tables(specs, ["a", "a"], 1, 1)
    with pytest.raises(kernels.SpecError, match="no feature uses table 'z'"):
        kernels.stack_tables(specs, ["a", "z"], 1, 1)
    kernels.stack_tables(specs, ["a", "b"], 1, 1, stack_name="both")
    with pytest.raises(kernels.SpecError, match="Table a is already stacked in group both"):
        kernels.stack_tables(specs, ["a", "c"], 1, 1)
    with pytest.raises(kernels.SpecError, match="both since it's already used"):
        kernels.stack_tables(specs, ["c"], 1, 1, stack_name="both")

    specs = three()
    specs["b"].table_spec.combiner = "mean"
    with pytest.raises(kernels.SpecError, match="different combiners"):
        kernels.stack_tables(specs, ["a", "b"], 1, 1)
    specs["c"].table_spec = dataclasses.replace(specs["c"].table_spec, embedding_dim=30)
    with pytest.raises(kernels.SpecError, match="wastes"):
        kernels.stack_tables(specs, ["a", "c"], 1, 1, fail_on_excess_padding=True)


def test_row_wise_optimizers_only_stack_tables_of_one_width():
    specs = three(optimizer=kernels.RowWiseAdagradOptimizerSpec(0.1))
    with pytest.raises(kernels.SpecError, match="one embedding_dim"):
        kernels.stack_tables(specs, ["a", "b"], 1, 1)
    kernels.auto_stack_tables(specs, 1, 1)
    stacks = kernels.get_stacked_table_specs(specs)
    assert {s.unpadded_embedding_dim for s in stacks.values()} == {5, 6, 7}


def test_features_of_one_name_are_refused():
    one = table("t", 10)
    with pytest.raises(kernels.SpecError, match="f is already defined: 2 features"):
        kernels.get_table_specs([feature("f", one, 8), feature("f", one, 8)])
    with pytest.raises(kernels.SpecError, match="f is already defined: 2 features"):
        kernels.build_plan(
            [feature("f", one, 8), feature("f", one, 8)], kernels.Topology(1, 1), batch_size=8
        )


HERE = (table_stacking, kernels, kernels.prepare_feature_specs_for_training)
THERE = (
    peer.table_stacking,
    peer.embedding,
    peer.embedding.prepare_feature_specs_for_training,
)


@pytest.mark.parametrize("where", [HERE, THERE], ids=["here", "there"])
def test_errors_have_the_words_of_there(where):
    stacking, names, prepare = where

    def fresh():
        return three() if where is HERE else peer.specs_like(three())

    def stack(specs, *tables, **options):
        stacking.stack_tables(specs, tables, 2, 2, **options)

    with pytest.raises(ValueError, match="Table a is repeated in group"):
        stack(fresh(), "a", "b", "a")
    specs = fresh()
    stack(specs, "a", "b", stack_name="custom_stack")
    with pytest.raises(ValueError, match=r"Table b is already stacked."):
        stack(specs, "c", "b")
    with pytest.raises(ValueError, match=r"custom_stack.*already used.*"):
        stack(specs, "c", stack_name="custom_stack")
    for field, value, words in (
        ("optimizer", specs["a"].table_spec.optimizer.__class__(0.7), "different optimizers"),
        ("combiner", "mean", "different combiners"),
    ):
        specs = fresh()
        setattr(specs["b"].table_spec, field, value)
        with pytest.raises(ValueError, match=words):
            stack(specs, "a", "b")
    specs = fresh()
    specs["c"].table_spec = dataclasses.replace(specs["c"].table_spec, embedding_dim=30)
    with pytest.raises(ValueError, match="Excess padding detected for stacked table a_c"):
        stack(specs, "a", "c", fail_on_excess_padding=True)
    with pytest.raises(ValueError, match="Padded vocab size for Table z is missing"):
        stacking.compute_table_to_setting_in_stack("s", ["z"], 8, {}, 4, 1)

    with pytest.raises(
        ValueError, match=r"embedding.prepare_feature_specs_for_training was not called"
    ):
        names.get_stacked_table_specs(fresh())
    twice = [fresh()["a"], fresh()["a"]]
    prepare(twice, 2, 2)  # accepts them; asking for tables does not
    for ask in (names.get_table_specs, names.get_stacked_table_specs):
        with pytest.raises(ValueError, match="Feature spec a is already defined"):
            ask(twice)
    specs = fresh()
    prepare(specs, 2, 2)
    with pytest.raises(AttributeError, match="Cannot update parameter 'combiner' on TableSpec 'a'"):
        specs["a"].table_spec.combiner = "mean"


def test_uneven_padding_is_warned_of(caplog):
    specs = three()
    specs["c"].table_spec = dataclasses.replace(specs["c"].table_spec, embedding_dim=30)
    kernels.stack_tables(specs, ["a", "c"], 1, 1)
    assert "Excess padding detected for stacked table a_c" in caplog.text
    assert specs["a"].table_spec.stacked_table_spec.stack_embedding_dim == 32


def test_tables_of_a_stack_are_listed_as_there():
    specs = three()
    theirs = peer.specs_like(specs)
    for stacking, where in ((table_stacking, specs), (peer.table_stacking, theirs)):
        stacking.stack_tables(where, ["c", "a"], 2, 2)
    kernels.prepare_feature_specs_for_training(specs, 2, 2)
    peer.embedding.prepare_feature_specs_for_training(theirs, 2, 2)

    def names(stacking, where):
        stacks = stacking.get_table_stacks([f.table_spec for f in where.values()])
        return {stack: [t.name for t in tables] for stack, tables in stacks.items()}

    assert names(table_stacking, specs) == names(peer.table_stacking, theirs)
