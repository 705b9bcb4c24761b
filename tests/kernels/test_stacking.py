"""Stacking gives what jax-tpu-embedding gives."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from tests.kernels import peer
from tests.kernels.support import feature, table


@st.composite
def spec_lists(draw):
    combiners, rates = ("sum", "mean"), (0.1, 0.2)
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


@given(
    specs=spec_lists(),
    devices=st.integers(1, 4),
    per_device=st.sampled_from([2, 4]),
    rotation=st.sampled_from([None, 0, 1, 3]),
    short=st.booleans(),
    activation_bytes=st.sampled_from([None, 3000, 20000]),
)
@settings(max_examples=60, deadline=None)
def test_automatic_stacking_is_the_same(
    specs, devices, per_device, rotation, short, activation_bytes
):
    theirs = peer.specs_like(specs)
    kernels.auto_stack_tables(
        specs,
        devices,
        per_device,
        rotation,
        use_short_stack_names=short,
        activation_mem_bytes_limit=activation_bytes,
    )
    kernels.prepare_feature_specs_for_training(specs, devices, per_device)
    peer.table_stacking.auto_stack_tables(
        theirs,
        devices,
        per_device,
        rotation,
        use_short_stack_names=short,
        activation_mem_bytes_limit=activation_bytes,
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
    with pytest.raises(kernels.SpecError, match="already in stack 'both'"):
        kernels.stack_tables(specs, ["a", "c"], 1, 1)
    with pytest.raises(kernels.SpecError, match="'both' is taken"):
        kernels.stack_tables(specs, ["c"], 1, 1, stack_name="both")

    specs = three()
    specs["b"].table_spec.combiner = "mean"
    with pytest.raises(kernels.SpecError, match="differ in combiner"):
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
    with pytest.raises(kernels.SpecError, match="feature 'f' is defined 2 times"):
        kernels.prepare_feature_specs_for_training(
            [feature("f", one, 8), feature("f", one, 8)], 1, 1
        )
