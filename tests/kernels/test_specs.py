from __future__ import annotations

import dataclasses
import pickle

import jax
import pytest

import kernels
from tests.kernels.support import feature, table


def test_specs_are_compared_and_hashed_by_value_and_not_by_placement():
    first, second = feature("f", table("t", 10), 8), feature("f", table("t", 10), 8)
    initializer = first.table_spec.initializer
    second.table_spec.initializer = initializer
    assert first == second
    assert hash(first) == hash(second)
    kernels.prepare_feature_specs_for_training([first], 1, 1)
    assert first.table_spec.is_stacked()
    assert first == second
    assert hash(first) == hash(second)


def test_lists_as_shapes_can_be_hashed():
    spec = kernels.FeatureSpec(
        name="f", table_spec=table("t", 10), input_shape=[8, 1], output_shape=[8, 8]
    )
    assert hash(spec)
    assert spec.input_shape == (8, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "empty name"),
        ({"vocabulary_size": 0}, "vocabulary_size is 0"),
        ({"embedding_dim": -3}, "embedding_dim is -3"),
        ({"embedding_dim": 1.5}, "embedding_dim is 1.5"),
        ({"combiner": "max"}, "use one of sum, mean, sqrtn"),
        ({"optimizer": "adagrad"}, "give an OptimizerSpec"),
        ({"initializer": 0.1}, "jax.nn.initializers"),
        ({"max_ids_per_partition": 0}, "max_ids_per_partition is 0"),
    ],
)
def test_tables_that_cannot_work_are_refused(change, words):
    with pytest.raises(kernels.SpecError, match=words):
        dataclasses.replace(table("t", 10), **change)


def test_features_that_cannot_work_are_refused():
    with pytest.raises(kernels.SpecError, match="empty name"):
        feature("", table("t", 10), 8)
    with pytest.raises(kernels.SpecError, match=r"output_shape \(8,\)"):
        kernels.FeatureSpec(
            name="f", table_spec=table("t", 10), input_shape=(8, 1), output_shape=(8,)
        )


def test_a_stacked_table_cannot_be_changed_but_placed_again():
    spec = feature("f", table("t", 10), 8)
    spec.table_spec.max_ids_per_partition = 8
    kernels.prepare_feature_specs_for_training([spec], 1, 1)
    with pytest.raises(AttributeError, match="limits now live in its StackedTableSpec"):
        spec.table_spec.max_ids_per_partition = 16
    with pytest.raises(AttributeError, match=r"dataclasses\.replace"):
        spec.table_spec.embedding_dim = 16
    stack = spec.table_spec.stacked_table_spec
    spec.table_spec.stacked_table_spec = stack.replace(max_ids_per_partition=16)
    assert spec.table_spec.stacked_table_spec.max_ids_per_partition == 16


def test_what_stacking_writes_is_missed_with_a_reason():
    spec = feature("f", table("t", 10), 8)
    with pytest.raises(
        kernels.SpecError, match="prepare_feature_specs_for_training was not called"
    ):
        _ = spec.table_spec.stacked_table_spec
    with pytest.raises(kernels.SpecError, match="feature 'f' is not placed"):
        _ = spec.id_transformation


def test_quantization_is_checked():
    assert kernels.QuantizationConfig(min_value=0.0, max_value=1.0, num_buckets=2).as_tuple() == (
        0.0,
        1.0,
        2,
    )
    with pytest.raises(kernels.SpecError, match="num_buckets 1"):
        kernels.QuantizationConfig(min_value=0.0, max_value=1.0, num_buckets=1)
    with pytest.raises(kernels.SpecError, match="min_value 2"):
        kernels.QuantizationConfig(min_value=2.0, max_value=1.0, num_buckets=4)


def test_errors_pickle_and_are_value_errors():
    overflow = kernels.Overflow("users", "max_ids_per_partition", 256, 320)
    error = kernels.LimitsExceeded([overflow, kernels.Overflow("items", "x", 1, 2)])
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.overflows == error.overflows
    assert (error.stack, error.limit, error.allowed) == ("users", "max_ids_per_partition", 256)
    assert again.observed == 320
    assert issubclass(kernels.SpecError, ValueError)
    assert issubclass(kernels.SpecError, kernels.EmberayError)


def test_specs_are_leaves_of_jax_trees():
    specs = {"a": feature("a", table("t", 10), 8), "b": [feature("b", table("u", 10), 8)]}
    assert [leaf.name for leaf in jax.tree.leaves(specs)] == ["a", "b"]
