"""``compile``: what it computes, how it runs the compiler, and the compiler itself."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import cli, compiler
from orchestrator.compile_cases import TENSOR_LIMIT, CompileCase, estimate
from orchestrator.compile_changes import other_generations, try_changes
from orchestrator.compile_report import as_values, report_lines
from orchestrator.config import LimitsConfig
from orchestrator.errors import CompilerError, ConfigError
from orchestrator.topology import slice_topology
from workers.compile_process import CompileOutcome, sizes_in

ROOT = Path(__file__).parents[2]
CLICKS = "workers.programs.clicks:program"
GIB = 2**30
HAS_COMPILER = bool(importlib.util.find_spec("libtpu") or "TPU_LIBRARY_PATH" in os.environ)
needs_compiler = pytest.mark.skipif(
    not HAS_COMPILER and platform.machine() != "x86_64",
    reason="libtpu, which holds the TPU compiler, exists for x86-64 only",
)


def case_of(topology="v6e-4", users=20_000, batch_size=1024, **changes):
    parameters = {"users": users}
    return CompileCase(CLICKS, parameters, batch_size, slice_topology(topology), {}, **changes)


def estimated(case):
    return estimate(case.plan(), case.topology)


def test_memory_is_told_by_table():
    computed = estimated(case_of("v6e-16", users=1_000_000))
    (stack,) = computed.stacks
    tables = {table.name: table for table in stack.tables}
    assert set(tables) == {"user", "item", "hour"}
    # A million rows of 16 floats on 16 devices; Adagrad keeps one more number for each.
    assert tables["user"].table == pytest.approx(1_000_000 * 16 * 4 / 16, rel=1e-3)
    assert tables["user"].slots == tables["user"].table
    assert computed.tables == sum(table.table for table in stack.tables)
    assert stack.tensor == pytest.approx(computed.tables, abs=4)
    # Four features of 1024 samples, and the gradients.
    assert computed.activations == 2 * 4 * 1024 * 16 * 4 // 16
    assert computed.available == 32 * GIB
    assert computed.fits


def test_limits_set_by_hand_are_used():
    limits = LimitsConfig(
        max_ids_per_partition=64, max_unique_ids_per_partition=32, buffer_size_per_device=4096
    )
    case = case_of()
    stack = estimated(case).stacks[0].name
    given = CompileCase(CLICKS, {}, 1024, case.topology, {stack: limits})
    assert estimated(given).stacks[0].max_ids_per_partition == 64
    assert estimated(given).stacks[0].max_unique_ids_per_partition == 32


def test_estimates_refuse_what_sparsecores_cannot():
    tensor_too_large = estimated(case_of("v5p-8", users=1_200_000_000))
    assert tensor_too_large.largest_tensor > TENSOR_LIMIT
    assert tensor_too_large.needed < tensor_too_large.available
    assert not tensor_too_large.fits
    assert not estimated(case_of("v6e-4", users=1_060_000_000)).fits


def refused(needed=0, available=0):
    return CompileOutcome(refusal="no room", needed=needed, available=available)


def test_the_least_change_of_each_kind_is_tried():
    case = case_of("v6e-4", users=1_500_000_000)
    asked = []

    def compile_case(one):
        asked.append((one.topology.name, one.without_slots))
        fits = one.topology.chips >= 16
        return CompileOutcome(needed=GIB) if fits else refused()

    told = try_changes(case, refused(), compile_case)
    assert asked == [("v6e-8", False), ("v6e-16", False)]
    larger, bare = told
    assert larger.helps
    assert larger.words == "v6e-16 (4 hosts)"
    assert not bare.helps
    assert bare.outcome is None
    assert bare.computed.largest_tensor > TENSOR_LIMIT
    lines = list(report_lines(case, estimated(case), refused(), told, other_generations(case)))
    text = "\n".join(lines)
    assert "It does not fit: no room" in text
    assert "- v6e-16 (4 hosts): fits, with 1.0 GiB on each device (tried)" in text
    assert "plain SGD for all tables" in text
    assert "does not help: a tensor of 22.4 GiB (computed)" in text
    assert "- v5p-16 (2 hosts): should fit, with 22.4 GiB; not tried" in text


def test_fewer_slots_are_tried_where_they_would_do():
    parameters = {"users": 2_100_000_000, "embedding_dim": 512}
    case = CompileCase(CLICKS, parameters, 2048, slice_topology("v6e-256"), {})
    computed = estimated(case)
    assert computed.largest_tensor <= TENSOR_LIMIT
    assert not computed.fits
    told = try_changes(case, refused(), lambda one: CompileOutcome(needed=GIB))
    assert [change.words for change in told if change.helps] == [
        "plain SGD for all tables, which keeps no slot variables"
    ]


def test_a_smaller_batch_is_tried_where_scratch_memory_is_what_does_not_fit():
    case = case_of("v6e-256", batch_size=512 * 1024)
    asked = []

    def compile_case(one):
        asked.append(one.batch_size)
        return CompileOutcome(needed=GIB)

    told = try_changes(case, refused(needed=64 * GIB, available=31 * GIB), compile_case)
    smaller = told[-1]
    assert smaller.helps
    assert smaller.words == f"batch_size={smaller.case.batch_size}"
    assert 0.4 < smaller.case.batch_size / case.batch_size < 0.45
    assert smaller.case.batch_size % case.topology.sparsecores == 0
    # Where the tables alone are too large, it would not help.
    huge = case_of("v6e-4", users=1_500_000_000)
    told = try_changes(huge, refused(60 * GIB, 31 * GIB), lambda one: refused())
    assert not any("batch_size" in change.words for change in told)


def test_larger_slices_take_the_next_batch_that_can_be_spread():
    case = case_of("v6e-4", batch_size=1000)
    assert case.on(slice_topology("v6e-64")).batch_size == 1024
    assert case.on(slice_topology("v6e-8")).batch_size == 1008


def test_what_fits_is_told():
    case = case_of("v6e-16")
    outcome = CompileOutcome(
        needed=3 * GIB, arguments=2 * GIB, temporaries=GIB, lowering_seconds=1, compiling_seconds=2
    )
    text = "\n".join(report_lines(case, estimated(case), outcome, [], []))
    assert "4 hosts × 4 chips of 4x4 (ct6e-standard-4t), 16 devices, 32 SparseCores" in text
    assert (
        "It fits: 3.0 GiB of 32.0 GiB on each device. Lowered in 1.0 s, compiled in 2.0 s." in text
    )
    assert "copy" not in text
    copying = CompileOutcome(needed=GIB, copies_of_tables=2)
    assert "2 instructions copy" in "\n".join(report_lines(case, estimated(case), copying, [], []))
    values = json.loads(json.dumps(as_values(case, estimated(case), outcome, [], [])))
    assert values["fits"]
    assert values["memory"]["needed"] == 3 * GIB
    assert set(values["by_table"]) == {"user", "item", "hour"}


def test_sizes_in_the_compilers_words():
    said = "memory required for HLO temporaries (40.25G) exceeds available HBM (31.24G). HLO"
    assert sizes_in(said) == (int(40.25 * GIB), int(31.24 * GIB))
    assert sizes_in("SparseCore only supports 16 GiB of HBM per tensor") == (0, 0)


# The compiler's process.


@pytest.fixture
def process(monkeypatch):
    """Lets a piece of Python stand in for the compiler; its last argument is the pipe."""

    def replace(code):
        monkeypatch.setattr(compiler, "_COMMAND", ("-c", f"import os, sys, time, json\n{code}"))

    return replace


def request_of(case):
    return case.request(case.plan())


def exists(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid, seconds=10.0):
    deadline = time.monotonic() + seconds
    while exists(pid):
        assert time.monotonic() < deadline, f"process {pid} is left"
        time.sleep(0.05)


def test_the_compiler_is_told_and_heard(process):
    process(
        "told = json.load(sys.stdin)\n"
        "print('words of a library')\n"
        "with os.fdopen(int(sys.argv[1]), 'w') as pipe:\n"
        "    pipe.write(json.dumps({'phase': told['topology']}) + '\\n')\n"
        "    pipe.write(json.dumps({'done': {'needed': 7}}) + '\\n')\n"
    )
    heard = []
    outcome = compiler.run_compiler(request_of(case_of("v6e-16")), 30.0, heard.append)
    assert outcome == CompileOutcome(needed=7)
    assert heard == ["v6e:4x4"]


def test_a_compiler_that_hangs_is_ended_at_the_deadline_with_all_it_started(process, tmp_path):
    pids = tmp_path / "pids"
    process(
        "child = os.fork()\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(CompilerError, match="did not end within 3 s; give it longer with"):
        compiler.run_compiler(request_of(case_of()), 3.0)
    told = pids.read_text().split()
    assert len(told) == 2
    for pid in told:
        wait_until_gone(int(pid))


def test_a_compiler_that_hangs_at_its_end_is_ended_at_the_deadline(process):
    process("os.close(int(sys.argv[1]))\ntime.sleep(600)\n")
    with pytest.raises(CompilerError, match="did not end within 2 s"):
        compiler.run_compiler(request_of(case_of()), 2.0)


def test_a_compiler_that_aborts_is_told_with_its_last_words(process):
    process("print('check failed: layout', flush=True)\nos.abort()\n")
    with pytest.raises(CompilerError, match=r"\(signal SIGABRT\): check failed: layout"):
        compiler.run_compiler(request_of(case_of()), 30.0)


def test_a_request_that_cannot_be_used_is_the_callers_mistake(process):
    process(
        "with os.fdopen(int(sys.argv[1]), 'w') as pipe:\n"
        "    pipe.write(json.dumps({'wrong': 'no such program'}) + '\\n')\n"
    )
    with pytest.raises(ConfigError, match="no such program"):
        compiler.run_compiler(request_of(case_of()), 30.0)


_ASKS = """
import os, sys, time
from orchestrator import compiler
from workers import compile_process
from workers.compile_process import CompileRequest
compiler._COMMAND = ("-c", '''
import json, sys, os, time
from workers.compile_process import _end_with
_end_with(json.load(sys.stdin)["parent"])
print("", flush=True)
open(%r, "w").write(str(os.getpid()))
time.sleep(600)
''')
compiler.run_compiler(CompileRequest("", {}, "", "", 1, (2, 2, 1)), 600.0)
"""


def test_the_compiler_ends_with_the_process_that_asked(tmp_path):
    told = tmp_path / "pid"
    asking = subprocess.Popen([sys.executable, "-c", _ASKS % str(told)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not (told.exists() and told.read_text()):
            assert time.monotonic() < deadline
            assert asking.poll() is None
            time.sleep(0.05)
        assert exists(int(told.read_text()))
    finally:
        asking.kill()
        asking.wait()
    wait_until_gone(int(told.read_text()))


# The command.


def test_without_a_compiler_one_clear_error(monkeypatch, capsys):
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    assert cli.main(["compile", "--topology", "v6e-16"]) == 2
    assert capsys.readouterr().err == (
        "error: compiling for TPUs needs the package libtpu, which holds XLA's TPU compiler (for "
        "Linux on x86-64; no TPU is needed): install emberay with the extra 'tpu'\n"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "for which TPUs? Give --topology, such as v6e-16"),
        (["--topology", "v6e-12"], "the nearest are v6e-8 and v6e-16"),
        (["a.yaml", "b.yaml", "--topology", "v6e-4"], "one configuration file at most"),
        (["--topology", "v6e-16", "batch_size=1000"], "1000"),
        (["--topology", "v6e-16", "program=none:none"], "no module 'none'"),
    ],
)
@needs_compiler
def test_what_cannot_be_compiled_is_told_before_the_compiler_starts(words, told, capsys):
    assert cli.main(["compile", *words]) == 2
    assert told in capsys.readouterr().err


def command(*words):
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "compile", *words, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    values = json.loads(done.stdout)
    assert values["fits"] == (done.returncode == 0)
    return values


@needs_compiler
@pytest.mark.system
@pytest.mark.parametrize(
    ("topology", "users", "devices", "sparsecores"),
    [("v6e-16", 100_000_000, 16, 32), ("v5p-8", 100_000_000, 4, 16)],
)
def test_a_ranking_program_fits(topology, users, devices, sparsecores):
    words = (f"program={CLICKS}", f"parameters.users={users}", "--topology", topology)
    found = command(*words, "batch_size=4096")
    memory = found["memory"]
    assert found["fits"]
    assert (found["devices"], found["sparsecores"]) == (devices, sparsecores)
    assert found["copies_of_tables"] == 0
    state = memory["tables"] + memory["slots"]
    assert memory["tables"] == pytest.approx(users * 16 * 4 / devices, rel=0.01)
    # What the plan says of the tables is what the compiler sets aside for them.
    assert state <= memory["arguments"] < 1.02 * state
    assert state < memory["needed"] < 1.1 * state
    assert memory["needed"] < memory["available"]


@needs_compiler
@pytest.mark.system
def test_a_program_made_from_data_draws_its_rows_in_place(tmp_path):
    r = np.random.default_rng(0)
    columns = {"user": r.integers(0, 300, 4000) * 7919, "liked": r.integers(0, 2, 4000)}
    pq.write_table(pa.table(columns), tmp_path / "ratings.parquet")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"data: {tmp_path}\nlabel: liked\nbatch_size: 1024\n"
        "parameters: {features: {user: {kind: hashed, rows: 30000001}}}\n"
    )
    found = command(str(config), "--topology", "v6e-4")
    assert found["program"] == "workers.programs.columns:program"
    state = found["memory"]["tables"] + found["memory"]["slots"]
    assert state > 30_000_000 * 16 * 4 * 2 / 4
    assert found["copies_of_tables"] == 0
    assert found["memory"]["needed"] < 1.1 * state


@needs_compiler
@pytest.mark.system
def test_a_program_that_does_not_fit_is_told_what_would_help():
    found = command(
        f"program={CLICKS}", "parameters.users=1500000000", "--topology", "v6e-4", "batch_size=4096"
    )
    assert not found["fits"]
    assert "SparseCore only supports 16 GiB of HBM per tensor" in found["refusal"]
    assert found["memory"]["largest_tensor"] > TENSOR_LIMIT
    changes = {change["change"]: change for change in found["changes"]}
    larger = changes["v6e-8 (1 host)"]
    assert larger["tried"]
    assert larger["fits"]
    assert not changes["plain SGD for all tables, which keeps no slot variables"]["should_fit"]
    assert changes["v5p-16 (2 hosts)"]["should_fit"]
