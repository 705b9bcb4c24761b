"""Rows counted in buffers, against the ids that the buffers were made of."""

from __future__ import annotations

import numpy as np
import pytest

import kernels
from kernels.preprocessing.asked_rows import asked_rows
from kernels.preprocessing.encoded import ProcessShape


@pytest.mark.parametrize(("devices", "per_device"), [(1, 1), (2, 2), (4, 3)])
def test_rows_are_those_of_the_ids(devices, per_device):
    cores = devices * per_device
    batch, valency, rows = 4 * cores, 5, 40
    specs = {
        name: kernels.FeatureSpec(
            name=name,
            table_spec=kernels.TableSpec(
                name=name,
                vocabulary_size=rows,
                embedding_dim=8,
                initializer=np.zeros,  # pyright: ignore[reportArgumentType] - never called
                optimizer=kernels.SGDOptimizerSpec(0.1),
                combiner="sum",
            ),
            input_shape=(batch, valency),
            output_shape=(batch, 8),
        )
        for name in ("a", "b")
    }
    topology = kernels.Topology(1, devices, per_device)
    plan = kernels.build_plan(specs, topology, batch_size=batch)
    placed = kernels.apply_plan(plan, specs)
    rng = np.random.default_rng(0)
    ids = {name: rng.integers(-1, rows, (batch, valency), dtype=np.int32) for name in specs}
    encoded, _ = kernels.preprocess_sparse_dense_matmul_input(
        ids, None, placed, devices, devices, num_sc_per_device=per_device
    )
    (stack,) = plan.stacks
    found = asked_rows(encoded, stack.name, ProcessShape(devices, devices, per_device))

    entries = np.zeros(devices, int)
    asked: list[set] = [set() for _ in range(cores)]
    for place in stack.tables:
        for sample, row in enumerate(ids[place.table]):
            core = sample // (batch // cores)
            named = set(row.tolist()) - {-1}
            entries[core // per_device] += len(named)
            for id in named:
                where = (id + place.shard_rotation) % cores
                asked[core].add((where, place.row_offset_in_shard + id // cores))
    expected = np.zeros((devices, cores), int)
    for core, wanted in enumerate(asked):
        for where, _ in wanted:
            expected[core // per_device, where] += 1
    np.testing.assert_array_equal(found.entries, entries)
    np.testing.assert_array_equal(found.rows, expected)
    every = sorted(where << 32 | row for where, row in set().union(*asked))
    np.testing.assert_array_equal(found.different, every)
