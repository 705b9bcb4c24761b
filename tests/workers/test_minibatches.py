"""Minibatches without a link between hosts: cuts that are given, ride along, or are summed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from kernels import EmbeddingPlan, Limits, unstack_tables
from tests.kernels.support import Engine, random_ids, several_features
from workers import protocol
from workers.aot import abstract_batch
from workers.batches import BatchSource
from workers.data.reader import ExampleReader
from workers.data.sources import open_dataset
from workers.host import Host
from workers.mesh import make_mesh
from workers.minibatches import CUTS, GivenCuts, agree, bits_of, cuts_of
from workers.planning import SPARE_ROUNDS, make_plan, order_for, planned_specs
from workers.program import load_program
from workers.protocol import Assignment, Lease, Observed, RunSpec, Squeezed

BATCH, ROWS, STEPS = 256, 1200, 5
TIGHT = {"item": Limits(6, 2, 4096), "tags": Limits(8, 3, 4096)}


@given(st.integers(0, 2**CUTS - 1))
def test_bits_are_the_cuts(cuts: int) -> None:
    assert cuts_of(bits_of(cuts)) == cuts
    assert cuts_of(bits_of(cuts) * 3) == cuts


def test_hosts_agree_on_the_cuts_of_all() -> None:
    # On one host its devices stand for one another: all say the same.
    cuts = [0, 1, 2**62, 2**63 - 1]
    assert agree(cuts, make_mesh()) == cuts


class OrTogether:
    """A link between threads: an honest all-reduce to compare with."""

    def __init__(self, hosts: int) -> None:
        self._barrier = threading.Barrier(hosts, timeout=30)
        self._lock = threading.Lock()
        self._values: dict[int, int] = {}

    def all_reduce(self, key: int, value: int) -> int:
        with self._lock:
            self._values[key] = self._values.get(key, 0) | value
        self._barrier.wait()
        return self._values[key]


@pytest.mark.parametrize("drop", [False, True])
def test_given_cuts_make_the_batches_that_a_link_makes(drop: bool) -> None:
    hosts, per_device = 4, 2
    engine = Engine(several_features(64), hosts, per_device)
    most = 2 if drop else 7
    for spec in engine.placed.values():
        spec.table_spec.stacked_table_spec = spec.table_spec.stacked_table_spec.replace(
            max_ids_per_partition=most,
            max_unique_ids_per_partition=3,
            suggested_coo_buffer_size_per_device=4096,
        )
    ids = random_ids(engine.specs, 3)
    ids["day"][16:] = -1  # the hosts' needs differ
    shares = [
        {name: value.reshape(hosts, -1, value.shape[1])[host] for name, value in ids.items()}
        for host in range(hosts)
    ]

    def encode(host: int, link: Any) -> Any:
        return kernels.preprocess_sparse_dense_matmul_input(
            shares[host],
            None,
            engine.placed,
            1,
            hosts,
            num_sc_per_device=per_device,
            allow_id_dropping=drop,
            enable_minibatching=True,
            all_reduce_interface=link,
        )

    honest, results = OrTogether(hosts), dict[int, Any]()
    threads = [
        threading.Thread(target=lambda h=host: results.update({h: encode(h, honest)}))
        for host in range(hosts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    alone = [GivenCuts() for _ in range(hosts)]
    for host, link in enumerate(alone):
        encode(host, link)
    cuts = [link.own for link in alone]
    together = int(np.bitwise_or.reduce(cuts))
    assert len(set(cuts)) > 1
    assert together.bit_count() > 0
    for host in range(hosts):
        batch, stats = encode(host, GivenCuts(together))
        assert int(batch.num_minibatches[0]) == together.bit_count() + 1
        for one, other in zip(
            jax.tree.leaves((batch, stats)), jax.tree.leaves(results[host]), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_what_was_squeezed_adds_up_over_steps_and_over_hosts() -> None:
    one, other = Squeezed(2, 4, {"a": 1}), Squeezed(1, 8, {"a": 2, "b": 3})
    assert one.then(other) == Squeezed(3, 8, {"a": 3, "b": 3})
    assert one.beside(other) == Squeezed(2, 8, {"a": 3, "b": 3})
    assert Squeezed().then(one) == one


# Whole runs of one host.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for split, rows in (("train", ROWS), ("test", 300)):
        item = generator.integers(0, 50, rows)
        tags = [
            [f"t{n}" for n in generator.integers(0, 99, generator.integers(0, 4))]
            for _ in range(rows)
        ]
        table = pa.table(
            {
                "item": item,
                "tags": pa.array(tags, pa.list_(pa.string())),
                "price": generator.normal(size=rows),
                "label": (item % 2 == 0).astype(np.int8),
            }
        )
        (folder / split).mkdir()
        pq.write_table(table, folder / split / "part-0.parquet", row_group_size=128)
    return folder


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Hosts to be closed at the end."""
    made: list[Host] = []
    yield made
    for host in made:
        host.close()


def run_spec(data: Path, folder: Path, **options: Any) -> RunSpec:
    return RunSpec(
        program="tests.workers.small_program:program",
        parameters={},
        data=str(data),
        run_folder=str(folder),
        batch_size=BATCH,
        epochs=3,
        seed=0,
        devices_per_host=jax.device_count(),
        logical_shards=8,
        **options,
    )


def plan_of(run: RunSpec, limits: dict[str, Limits] | None = None) -> EmbeddingPlan:
    program = load_program(run.program, run.parameters)
    plan = make_plan(program, run, 1, None, None, 0)
    return plan if limits is None else plan.with_limits(limits)


def started(run: RunSpec, plan: EmbeddingPlan, hosts: list[Host]) -> Host:
    host = Host(run, Assignment(rank=0, hosts=1, launch=0))
    hosts.append(host)
    host.execute(protocol.Join(host.hello().address))
    prepared = host.execute(protocol.Prepare(plan.to_json()))
    assert isinstance(prepared, protocol.Prepared)
    assert prepared.plan_hash == plan.hash
    host.execute(protocol.Restore(None))
    return host


def train(host: Host, first: int, last: int, **options: Any) -> protocol.LeaseDone:
    done = host.execute(protocol.RunLease(Lease(first, host.plan.hash, first, last, **options)))
    assert isinstance(done, protocol.LeaseDone)
    return done


def evaluate(host: Host) -> protocol.Evaluated:
    done = host.execute(protocol.Evaluate("test"))
    assert isinstance(done, protocol.Evaluated)
    return done


def test_a_run_in_minibatches_is_the_run_with_larger_limits(
    data: Path, tmp_path: Path, hosts: list[Host]
) -> None:
    plain = run_spec(data, tmp_path / "plain")
    roomy = started(plain, plan_of(plain), hosts)
    run = run_spec(data, tmp_path / "tight", minibatching=True)
    tight = started(run, plan_of(run, TIGHT), hosts)
    # A lease that is cut, one with a batch that is passed over, and an evaluation between them.
    for first, last, skip in ((0, 3, ()), (3, 8, (5,)), (8, 11, ())):
        want, got = train(roomy, first, last, skip=skip), train(tight, first, last, skip=skip)
        np.testing.assert_allclose(got.losses, want.losses, rtol=1e-5)
        assert want.squeezed == Squeezed()
        assert got.squeezed.steps == last - first
        assert got.squeezed.most > 1
        assert not got.squeezed.dropped
        assert got.observed == want.observed
        assert evaluate(tight).metrics.result() == pytest.approx(
            evaluate(roomy).metrics.result(), rel=1e-4
        )
    expected = unstack_tables(roomy.plan, roomy.state.tables)
    for name, values in unstack_tables(tight.plan, tight.state.tables).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)


def test_limits_are_raised_between_leases_and_nothing_is_lost(
    data: Path, tmp_path: Path, hosts: list[Host]
) -> None:
    run = run_spec(data, tmp_path / "one", minibatching=True)
    host = started(run, plan_of(run, TIGHT), hosts)
    before = train(host, 0, 3)
    assert before.squeezed.steps == 3
    raised = host.plan.with_raised_limits(before.observed, headroom=2.0)
    assert raised.version == host.plan.version + 1
    host.execute(protocol.Prepare(raised.to_json()))
    after = train(host, 3, 6, save=True)
    assert after.squeezed == Squeezed()
    assert after.seconds["compiling"] > 0

    plain = run_spec(data, tmp_path / "plain")
    roomy = started(plain, plan_of(plain), hosts)
    np.testing.assert_allclose(
        [*before.losses, *after.losses], train(roomy, 0, 6).losses, rtol=1e-5
    )


def test_ids_are_dropped_only_if_they_may_be_and_are_counted(
    data: Path, tmp_path: Path, hosts: list[Host]
) -> None:
    limits = {"item": Limits(1, 1, 4096), "tags": Limits(8, 8, 4096)}
    for options, drops in (
        ({}, False),
        ({"minibatching": True}, False),
        ({"drop_ids": True}, True),
        ({"drop_ids": True, "minibatching": True}, True),
    ):
        run = run_spec(data, tmp_path / str(len(hosts)), **options)
        host = started(run, plan_of(run, limits), hosts)
        if not drops:
            with pytest.raises(kernels.LimitsExceeded, match="max_ids_per_partition") as caught:
                train(host, 0, 2)
            assert "item" in {overflow.stack for overflow in caught.value.overflows}
            continue
        done = train(host, 0, 2)
        assert np.isfinite(done.losses).all()
        assert done.squeezed.dropped["item"] > 0
        assert (done.squeezed.most > 1) == ("minibatching" in options)


def test_a_batch_has_the_shapes_it_is_compiled_for_without_data(data: Path, tmp_path: Path) -> None:
    run = run_spec(data, tmp_path, minibatching=True)
    program, plan = load_program(run.program, run.parameters), plan_of(run, TIGHT)
    specs, mesh = planned_specs(program, plan), make_mesh()
    dataset = open_dataset(run.data, "train", program.schema.columns)
    reader = ExampleReader(dataset, program.schema)
    source = BatchSource(order_for(dataset, run), reader, 0, plan, specs, mesh)
    batches = source.start(0, 1, trains=True)
    try:
        made = next(batches).batch
    finally:
        batches.close()
    assert made.riding is not None
    expected = abstract_batch(program, plan, specs, mesh)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), (made, expected))
    assert shapes[0] == shapes[1]


def test_buffers_have_spare_room_for_a_few_minibatches(data: Path, tmp_path: Path) -> None:
    seen = dict.fromkeys(("item", "tags"), Observed(100, 50, 600))
    sizes = []
    for minibatching in (False, True):
        run = run_spec(data, tmp_path, minibatching=minibatching)
        plan = make_plan(load_program(run.program, run.parameters), run, 1, seen, None, 0)
        sizes.append(plan.limits["item"].buffer_size_per_device)
    partitions = jax.device_count()
    assert sizes[1] - sizes[0] >= (SPARE_ROUNDS - 1) * 8 * partitions


def test_the_first_observation_of_a_survey_needs_no_minibatches(
    data: Path, tmp_path: Path, hosts: list[Host]
) -> None:
    run = run_spec(data, tmp_path, minibatching=True)
    host = Host(run, Assignment(rank=0, hosts=1, launch=0))
    hosts.append(host)
    host.execute(protocol.Join(host.hello().address))
    surveyed = host.execute(protocol.Survey())
    assert isinstance(surveyed, protocol.Surveyed)
    program = load_program(run.program, run.parameters)
    plan = make_plan(program, run, 1, surveyed.observed, None, 0)
    assert plan.minibatching
    for name, seen in surveyed.observed.items():
        assert isinstance(seen, Observed)
        assert plan.limits[name].hold(seen)
