"""The exported function of the ready programs: any batch size, every method, the same numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from workers.errors import ProgramError
from workers.program import Program
from workers.programs import clicks, sequence, two_tower
from workers.scoring import abstract_parameters, columns_of, scores_of, scoring_method
from workers.serving.function import activation, export_function

PROGRAMS = {
    "sequence": (sequence.program(rows=10, users=30, items=20), None),
    "two_tower": (two_tower.program(rows=10, users=30, items=20), None),
    "queries": (two_tower.program(rows=10, users=30, items=20), "queries"),
}


def weights_of(program: Program) -> tuple[dict[str, np.ndarray], list[str], list[np.ndarray]]:
    """Tables, and names and values of parameters, drawn at random."""
    r = np.random.default_rng(0)
    tables = {
        table.name: r.normal(size=(table.vocabulary_size, table.embedding_dim)).astype(np.float32)
        for table in program.tables
    }
    found = jax.tree_util.tree_leaves_with_path(abstract_parameters(program))
    names = [jax.tree_util.keystr(path) for path, _ in found]
    return tables, names, [r.normal(size=leaf.shape).astype(np.float32) for _, leaf in found]


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_batch_gives_what_the_model_says(name: str) -> None:
    program, method = PROGRAMS[name]
    chosen = scoring_method(program, method)
    tables, names, leaves = weights_of(program)
    types = {table: rows.dtype for table, rows in tables.items()}
    like = abstract_parameters(program)
    exported = export.deserialize(export_function(program, chosen, types, like, names).serialize())
    call = jax.jit(exported.call)
    r = np.random.default_rng(1)
    specs = {table.name: table for table in program.tables}
    for batch in (1, 6):
        ids = {
            feature.name: r.integers(-1, 20, (batch, feature.transform.valency)).astype(np.int32)
            for feature in program.features
        }
        dense = r.normal(size=(batch, len(program.dense))).astype(np.float32)
        said = call(tables, dict(zip(names, leaves, strict=True)), ids, dense)
        activations = {
            feature.name: activation(
                feature,
                specs[feature.table],
                jnp.asarray(tables[feature.table]),
                jnp.asarray(ids[feature.name]),
            )
            for feature in program.features
        }
        parameters = jax.tree.unflatten(jax.tree.structure(like), leaves)
        wanted = scores_of(program, chosen, parameters, activations, jnp.asarray(dense))
        assert tuple(said) == columns_of(chosen) == tuple(wanted)
        for column, values in wanted.items():
            assert values.shape[0] == batch
            np.testing.assert_allclose(said[column], values, rtol=1e-5, atol=1e-4)


def test_scores_of_two_towers_do_not_depend_on_the_batch() -> None:
    program, _ = PROGRAMS["two_tower"]
    assert scoring_method(program, None) == "score"
    assert scoring_method(clicks.program(), None) == "__call__"
    for method, said in (
        ("setup", "cannot predict: it must take the activations"),
        ("_private", "has no method '_private'"),
        ("rank", "returned tuple"),
    ):
        with pytest.raises(ProgramError, match=said):
            chosen = scoring_method(program, method)
            tables, names, _ = weights_of(program)
            types = {table: rows.dtype for table, rows in tables.items()}
            export_function(program, chosen, types, abstract_parameters(program), names)


class NeedsItsSize(sequence.SequenceModel):
    """A model that asks how long its batch is."""

    def __call__(self, activations: Any, dense: jax.Array) -> jax.Array:
        return jnp.zeros(len(activations["item"])) + dense[:, 0]


def test_a_model_that_needs_its_batch_size_is_told_and_can_have_one() -> None:
    program = dataclasses.replace(PROGRAMS["sequence"][0], model=NeedsItsSize(8))
    tables, _, _ = weights_of(PROGRAMS["sequence"][0])
    types = {table: rows.dtype for table, rows in tables.items()}
    with pytest.raises(ProgramError, match=r"take x.shape\[0\] where .* as in batch=256"):
        export_function(program, "__call__", types, {}, [])
    exported = export_function(program, "__call__", types, {}, [], batch=4)
    assert [aval.shape for aval in exported.out_avals] == [(4,), (4,)]
