"""The C++ kernels for CPUs: held to plain JAX, and what only they promise.

That they agree with plain numpy, for every optimizer, mesh and combiner, is in `test_engine`.
"""

from __future__ import annotations

import functools
import mmap
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.backends import XlaBackend, cpu_kernels_are_built
from kernels.backends.cpu import CpuBackend
from kernels.backends.cpu_calls import native_module
from kernels.backends.interface import NO_ROW, StackInput, StackLayout
from tests.kernels.optimizer_formulas import VARIANTS
from tests.kernels.support import Engine, fast_jit, feature, several_features, table
from tests.runs import ROOT

needs_kernels = pytest.mark.skipif(
    not cpu_kernels_are_built(), reason="the C++ kernels were not built"
)
CPU, XLA = CpuBackend(), XlaBackend()
SAMPLES, ROWS = 6, 24
MODES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(sorted(VARIANTS)),
        "width": st.sampled_from((1, 17, 100)),
        "per_device": st.sampled_from((1, 3)),
        "most": st.sampled_from((0, 1, 40)),
        "bounds": st.sampled_from(((None, None), (-0.2, None), (-0.1, 0.1))),
        "seed": st.integers(0, 99),
    }
)


@pytest.fixture(autouse=True)
def as_found():
    """Threads and level of vector instructions, as they were."""
    yield
    if cpu_kernels_are_built():
        native_module().set_threads(0)
        native_module().use_level(native_module().levels()[0])


def layout_of(width, per_device, optimizer=None, devices=1):
    cores = per_device * devices
    stack = kernels.StackedTableSpec(
        stack_name="stack",
        stack_vocab_size=ROWS * cores,
        stack_embedding_dim=width,
        optimizer=optimizer or kernels.AdagradOptimizerSpec(0.1),
        combiner="sum",
        total_sample_count=SAMPLES * cores,
        unpadded_embedding_dim=width,
    )
    return StackLayout(stack, devices, per_device, ())


def random_batch(layout, most, seed):
    """Buffers with up to ``most`` entries a partition, in the order preprocessing gives them."""
    rng = np.random.default_rng(seed)
    n, cores = layout.sparsecores_per_device, layout.sparsecores
    room = -(-most // 8) * 8 * cores + 8
    pointers = np.zeros((n, max(8, cores)), np.int32)
    ids = np.full((n, room), NO_ROW, np.int32)
    samples, gains = ids.copy(), np.full((n, room), np.nan, np.float32)
    for core in range(n):
        start = 0
        for asked in range(cores):
            pairs = {(rng.integers(ROWS), rng.integers(SAMPLES)) for _ in range(most)}
            for place, (row, sample) in enumerate(sorted(pairs), start):
                ids[core, place], samples[core, place] = row, sample
                gains[core, place] = rng.uniform(0.2, 2)
            pointers[core, asked] = start + len(pairs)
            start = -(-pointers[core, asked] // 8) * 8
        pointers[core, cores:] = start
    flat = (jnp.asarray(part.reshape(-1)) for part in (pointers, ids, samples, gains))
    return StackInput(*flat, num_minibatches=jnp.ones(1, jnp.int32))


def random_variables(layout, seed):
    rng = np.random.default_rng(seed + 1)
    width = layout.stack.stack_embedding_dim
    rows = ROWS * layout.sparsecores_per_device
    widths = layout.stack.optimizer.slot_variables_widths(width)
    slots = tuple(jnp.asarray(rng.uniform(0.1, 2, (rows, w)), jnp.float32) for w in widths)
    table = jnp.asarray(rng.normal(size=(rows, width)), jnp.float32)
    gradients = rng.normal(size=(SAMPLES * layout.sparsecores_per_device, width))
    return kernels.EmbeddingVariables(table, slots), jnp.asarray(gradients, jnp.float32)


def everything(backend, layout, batch, variables, gradients, bounds=(None, None)):
    @fast_jit
    def run(batch, variables, gradients):
        numbers = layout.stack.optimizer.get_hyperparameters(3)
        return (
            backend.lookup(layout, batch, variables.table),
            backend.update(layout, batch, variables, gradients, numbers, bounds),
            backend.table_gradients(layout, batch, gradients, variables.table),
        )

    return run(batch, variables, gradients)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@needs_kernels
@settings(max_examples=12, deadline=None)
@given(MODES)
def test_they_agree_with_plain_jax(mode):
    layout = layout_of(mode["width"], mode["per_device"], VARIANTS[mode["name"]])
    batch = random_batch(layout, mode["most"], mode["seed"])
    variables, gradients = random_variables(layout, mode["seed"])
    ours = everything(CPU, layout, batch, variables, gradients, mode["bounds"])
    plain = everything(XLA, layout, batch, variables, gradients, mode["bounds"])
    for mine, other in zip(ours[:2], plain[:2], strict=True):
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5)
    (rows, sums), (their_rows, their_sums) = ours[2], plain[2]
    used = int(np.sum(np.asarray(their_rows) != NO_ROW))
    np.testing.assert_array_equal(rows[:used], their_rows[:used])
    assert np.all(np.asarray(rows[used:]) == NO_ROW)
    np.testing.assert_allclose(sums[:used], their_sums[:used], rtol=3e-5, atol=3e-5)
    assert not np.any(sums[used:])
    # Rows that the batch does not name keep their bits.
    untouched = np.setdiff1d(np.arange(variables.table.shape[0]), rows)
    for before, after in zip(jax.tree.leaves(variables), jax.tree.leaves(ours[1]), strict=True):
        np.testing.assert_array_equal(np.asarray(before)[untouched], after[untouched])


def one_partition(ids, samples, gains):
    """Buffers of one SparseCore, full but for the last two places."""
    pointers = np.full(8, len(ids) + 2, np.int32)
    pointers[0] = len(ids)
    flat = (pointers, *(np.pad(part, (0, 2)) for part in (ids, np.asarray(samples), gains)))
    return StackInput(*map(jnp.asarray, flat), num_minibatches=jnp.ones(1, jnp.int32))


@needs_kernels
@pytest.mark.parametrize("width", [16, 17])
@pytest.mark.parametrize(
    "samples",
    [(5, 2, 0, 1, 4, 3), (5, 2, 2, 1, 4, 3), (5, 2, NO_ROW, 1, 4, 3), (2, 2, 2, 2, 2, 2)],
    ids=["one each", "one twice", "one is no sample", "all of one"],
)
def test_as_many_ids_as_samples(samples, width):
    """Samples that have one id each are looked up without sorting; others are not taken for it."""
    layout = layout_of(width, 1)
    ids, gains = np.array([0, 3, 3, 7, 20, 23], np.int32), np.arange(1, 7, dtype=np.float32)
    variables, _ = random_variables(layout, 0)
    batch = one_partition(ids, samples, gains)
    want = np.zeros((SAMPLES, width), np.float32)
    for row, sample, gain in zip(ids, samples, gains, strict=True):
        if sample < SAMPLES:
            want[sample] += gain * np.asarray(variables.table)[row]
    look_up = fast_jit(functools.partial(CPU.lookup, layout))
    np.testing.assert_allclose(look_up(batch, variables.table), want, rtol=1e-6)


@needs_kernels
@pytest.mark.parametrize("twice", [False, True])
def test_one_id_a_sample_on_several_threads(twice, monkeypatch):
    samples, width = 9000, 16  # three pieces of work
    monkeypatch.setitem(globals(), "SAMPLES", samples)
    layout = layout_of(width, 1)
    rng = np.random.default_rng(4)
    ids = np.sort(rng.integers(0, ROWS, samples).astype(np.int32))
    of = rng.permutation(samples).astype(np.int32)
    if twice:
        of[-1] = of[0]
    gains = rng.random(samples, np.float32)
    variables, _ = random_variables(layout, 0)
    want = np.zeros((samples, width), np.float32)
    np.add.at(want, of, gains[:, None] * np.asarray(variables.table)[ids])
    module, batch = native_module(), one_partition(ids, of, gains)
    look_up = fast_jit(functools.partial(CPU.lookup, layout))
    try:
        for threads in (1, 2, 7):
            module.set_threads(threads)
            np.testing.assert_array_equal(look_up(batch, variables.table), want)
    finally:
        module.set_threads(0)


@needs_kernels
@pytest.mark.parametrize("name", ["adagrad", "row_wise_adagrad", "adam_other", "f2a"])
def test_threads_and_vector_instructions_do_not_change_a_bit(name, monkeypatch):
    # Enough uses of rows that the work is cut into several pieces.
    monkeypatch.setitem(globals(), "SAMPLES", 64)
    monkeypatch.setitem(globals(), "ROWS", 200)
    layout = layout_of(100, 2, VARIANTS[name])
    batch = random_batch(layout, 5000, 1)
    assert int(np.sum(np.asarray(batch.embedding_ids) != NO_ROW)) > 2 * 8192
    variables, gradients = random_variables(layout, 1)
    want = bits(everything(CPU, layout, batch, variables, gradients))
    module = native_module()
    for level in module.levels():
        assert module.use_level(level)
        for threads in (1, 2, 7):
            module.set_threads(threads)
            assert bits(everything(CPU, layout, batch, variables, gradients)) == want
    assert not module.use_level("abacus")


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_buffers_that_hold_nonsense_do_no_harm(seed):
    """Ids, samples and row pointers out of their ranges are never followed."""
    rng = np.random.default_rng(seed)
    layout = layout_of(8, int(rng.integers(1, 4)))
    batch = random_batch(layout, 10, seed)
    variables, gradients = random_variables(layout, seed)
    wild = np.array([-(2**31), -1, 0, 3, ROWS, 10**6, 2**31 - 1])

    def spoiled(values):
        values = np.array(values)
        where = rng.random(values.shape) < 0.3
        return jnp.asarray(np.where(where, rng.choice(wild, values.shape), values).astype(np.int32))

    batch = batch._replace(
        row_pointers=spoiled(batch.row_pointers),
        embedding_ids=spoiled(batch.embedding_ids),
        sample_ids=spoiled(batch.sample_ids),
    )
    activations, after, (rows, _) = everything(CPU, layout, batch, variables, gradients)
    assert activations.shape == gradients.shape
    assert after.table.shape == variables.table.shape
    rows = np.asarray(rows)
    assert np.all((rows == NO_ROW) | ((rows >= 0) & (rows < variables.table.shape[0])))
    used = rows[rows != NO_ROW]
    assert np.all(np.diff(used) > 0)


@needs_kernels
def test_running_out_of_memory_is_an_error():
    """On whatever thread: the process goes on."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.short_of_memory"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "emberay: std::bad_alloc" in done.stdout
    assert done.stdout.endswith("and goes on\n")


@needs_kernels
def test_scan_and_cond_work_in_place():
    """In a donated loop the table stays where it is, and nothing as large is copied."""
    rows = 30_000
    specs = {"f": feature("f", table("t", rows, 8), 32, 2)}
    engine = Engine(specs, 1)
    batch, _ = engine.encode({"f": np.arange(64).reshape(32, 2)})
    gradients = {"f": np.ones((32, 8), np.float32)}

    def run(tables, batch, gradients):
        def step(tables, number):
            update = functools.partial(
                kernels.tpu_sparse_dense_matmul_grad,
                gradients,
                batch,
                feature_specs=engine.placed,
                num_sc_per_device=1,
                platform="cpu",
            )
            return jax.lax.cond(number % 2 == 0, update, lambda same: same, tables), ()

        return jax.lax.scan(step, tables, jnp.arange(4))[0]

    # Copied into memory of XLA's own: numpy's cannot be donated.
    tables = jax.tree.map(jnp.copy, engine.tables())
    compiled = jax.jit(run, donate_argnums=0).lower(tables, batch, gradients).compile()
    local = engine.plan.stacks[0].vocab_size
    for line in compiled.as_text().splitlines():
        size = re.match(r"\(?f32\[(\d+),8\]", line.partition(" = ")[2])
        if size and int(size[1]) >= local:
            assert not re.search(r"\b(copy|copy-start|broadcast)\(", line), line
    assert compiled.memory_analysis().temp_size_in_bytes < local * 8
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tables)]
    after = compiled(tables, batch, gradients)
    assert places == [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(after)]


@needs_kernels
def test_devices_ask_each_other_for_every_row_once():
    """Blocks are as long as the different rows a device may ask for, not as the ids."""
    specs = several_features(16)
    engine = Engine(specs, 2, 2, limits=None)
    batch, _ = engine.encode({name: np.zeros(s.input_shape, np.int32) for name, s in specs.items()})
    look = engine.sharded(kernels.tpu_sparse_dense_matmul, 2, global_device_count=2, platform="cpu")
    text = jax.jit(look).lower(batch, engine.tables()).as_text()
    (stack,) = kernels.get_stacked_table_specs(engine.placed).values()
    blocks = re.findall(r"all_to_all.*?tensor<2x(\d+)xi32>", text, re.DOTALL)
    rows = stack.stack_vocab_size // 2
    most = min(4 * stack.max_unique_ids_per_partition, rows)
    assert blocks
    assert int(blocks[0]) <= most


def has_huge_pages():
    """Whether this system moves memory into huge pages when it is asked to (Linux 6.1)."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        return False
    memory = mmap.mmap(-1, 2**23, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(bytes(2**23))
    try:
        memory.madvise(25)  # MADV_COLLAPSE
    except OSError:
        return False
    return True


def huge_kilobytes(address):
    """Kilobytes in huge pages, of the mapping that an address lies in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1])
    raise AssertionError(f"nothing is mapped at {address:x}")


@needs_kernels
@pytest.mark.skipif(not has_huge_pages(), reason="the system has no huge pages to give")
def test_large_tables_move_into_huge_pages_and_keep_their_values(monkeypatch):
    monkeypatch.setitem(globals(), "ROWS", 80_000)
    layout = layout_of(128, 1)
    batch = random_batch(layout, 10, 1)
    table = jnp.arange(80_000 * 128, dtype=jnp.float32).reshape(80_000, 128)
    want = np.array(table)
    look_up = jax.jit(functools.partial(CPU.lookup, layout))
    first = look_up(batch, table)
    middle = table.unsafe_buffer_pointer() + table.nbytes // 2
    assert huge_kilobytes(middle) * 1024 > table.nbytes // 2
    np.testing.assert_array_equal(table, want)
    np.testing.assert_array_equal(look_up(batch, table), first)
    np.testing.assert_allclose(first, XLA.lookup(layout, batch, table), rtol=1e-5)


@needs_kernels
@settings(max_examples=10, deadline=None)
@given(
    width=st.sampled_from((1, 16, 31, 32, 64, 100, 128, 144)),
    per_device=st.sampled_from((1, 2)),
    seed=st.integers(0, 99),
)
def test_sums_of_every_width_are_made_in_the_order_of_the_buffers(width, per_device, seed):
    """To the bit: one product and one sum after another, however the entries are cut."""
    layout = layout_of(width, per_device)
    batch = random_batch(layout, 60, seed)
    variables, _ = random_variables(layout, seed)
    want = np.zeros((SAMPLES * per_device, width), np.float32)
    weights = np.asarray(variables.table)
    pointers = np.asarray(batch.row_pointers).reshape(per_device, -1)
    ids, samples, gains = (np.asarray(a).reshape(per_device, -1) for a in batch[1:4])
    for asked in range(layout.sparsecores):
        for asking in range(per_device):
            begin = -(-pointers[asking, asked - 1] // 8) * 8 if asked else 0
            for i in range(begin, pointers[asking, asked]):
                row = weights[asked * ROWS + ids[asking, i]]
                want[asking * SAMPLES + samples[asking, i]] += gains[asking, i] * row
    for threads in (1, 3):
        native_module().set_threads(threads)
        got = fast_jit(functools.partial(CPU.lookup, layout))(batch, variables.table)
        np.testing.assert_array_equal(got, want)
