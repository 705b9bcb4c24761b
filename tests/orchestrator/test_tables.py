"""The commands below ``tables``, on the checkpoint of a small run."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kernels import unstack_tables
from orchestrator.cli import main
from orchestrator.config_loading import make_config
from orchestrator.table_board import TableBoard, chosen_rows
from workers import protocol
from workers.data.sources import open_dataset
from workers.host import Host
from workers.planning import make_plan
from workers.program import load_program
from workers.protocol import Assignment, Lease
from workers.redaction import HIDDEN
from workers.saved_tables import SavedTable, nearest_rows
from workers.table_keys import RowKeys, keys_of

ROWS = 256
FEATURES = {
    "user": {"kind": "ids", "rows": 50},
    "shop": {"kind": "hashed", "rows": 512},
    "city": {"kind": "vocabulary", "values": ["Rome", "Oslo"]},
    "tags": {"kind": "list", "of": "hashed", "rows": 64, "most": 3, "separator": "|"},
    "seen": {"kind": "list", "of": "ids", "rows": 9, "most": 3},
    "price": {"kind": "ranges", "boundaries": [1.0, 2.0]},
    "route": {"kind": "hashed", "columns": ["city", "user"], "rows": 4096},
}


@dataclasses.dataclass
class Trained:
    folder: Path
    tables: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    """A run of two steps, in this process, with its checkpoint and its configuration."""
    folder = tmp_path_factory.mktemp("run")
    r = np.random.default_rng(0)
    columns = {
        "user": r.integers(0, 40, ROWS),
        "shop": [f"shop {n}" for n in r.integers(0, 30, ROWS)],
        "city": [["Rome", "Oslo", "Lima"][n] for n in r.integers(0, 3, ROWS)],
        "tags": ["|".join(f"t{n}" for n in range(row % 4)) for row in range(ROWS)],
        "seen": [list(range(row % 4)) for row in range(ROWS)],
        "price": r.uniform(0, 3, ROWS),
        "label": r.integers(0, 2, ROWS),
    }
    data = folder.parent / "data"
    data.mkdir()
    pq.write_table(pa.table(columns), data / "a.parquet")
    config = make_config(
        {
            "program": "workers.programs.columns:program",
            "parameters": {"label": "label", "features": FEATURES, "embedding_dim": 8},
            "data": str(data),
            "hosts": 1,
            "devices_per_host": jax.device_count(),
            "batch_size": 128,
        }
    )
    (folder / "config.yaml").write_text(config.to_yaml())
    program = load_program(config.program, config.parameters)
    run = config.run_spec(str(data), str(folder))
    host = Host(run, Assignment(rank=0, hosts=1, launch=0))
    try:
        host.execute(protocol.Join(host.hello().address))
        plan = make_plan(program, run, 1, None, None, 0)
        host.execute(protocol.Prepare(plan.to_json()))
        host.execute(protocol.Restore(None))
        host.execute(protocol.RunLease(Lease(0, plan.hash, 0, 2, save=True)))
        tables = unstack_tables(plan, host.state.tables)
        host.execute(protocol.Finish())
    finally:
        host.close()
    return Trained(folder, tables)


def test_describe(trained, capsys):
    assert main(["tables", "describe", str(trained.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("tables after step 2" in line for line in lines)
    (user,) = (line for line in lines if line.startswith("│ user "))
    cells = [cell.strip() for cell in user.split("│")[1:-1]]
    assert cells[:5] == ["user", "50", "8", "80.0%", "10"]
    norms = np.linalg.norm(trained.tables["user"][:40], axis=1)
    assert float(cells[5]) == pytest.approx(np.median(norms), rel=0.01)
    (shop,) = (line for line in lines if line.startswith("│ shop "))
    cells = [cell.strip() for cell in shop.split("│")[1:-1]]
    assert cells[1] == "512" and 450 < int(cells[4]) < 512


@pytest.mark.parametrize("kind", ["parquet", "numpy", "safetensors"])
def test_export_is_what_was_trained(kind, trained, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["tables", "export", str(trained.folder), str(out), "--format", kind]
    assert main(words) == 0
    assert f"7 tables after step 2: {out}" in capsys.readouterr().out
    for name, want in trained.tables.items():
        if kind == "parquet":
            described = pq.read_table(out / f"{name}.parquet")
            rows = np.stack(described.column("embedding").to_pylist())
        else:
            described = pq.read_table(out / f"{name}.keys.parquet")
            rows = (
                np.load(out / f"{name}.npy")
                if kind == "numpy"
                else read_safetensors(out / "tables.safetensors")[name]
            )
        np.testing.assert_array_equal(rows, want)
        assert described.column("id").to_pylist() == list(range(len(want)))
    keys = described_keys(out, "shop", kind)
    shops = {key for key in keys if key is not None}
    assert shops == {f"shop {n}" for n in range(30)}
    trained_rows = pq.read_table(described_file(out, "shop", kind)).column("trained").to_pylist()
    assert [key is not None for key in keys] == trained_rows, "each shop has trained its row"
    assert described_keys(out, "city", kind) == ["Rome", "Oslo", None]
    assert main(words) == 2, "the output is there"


def described_file(out, name, kind):
    return out / (f"{name}.parquet" if kind == "parquet" else f"{name}.keys.parquet")


def described_keys(out, name, kind):
    return pq.read_table(described_file(out, name, kind)).column("key").to_pylist()


def read_safetensors(file):
    """By the format's description: length, JSON, arrays."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert (8 + length) % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    assert header.pop("__metadata__") == {"step": "2"}
    tables = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        assert entry["dtype"] == "F32"
        tables[name] = np.frombuffer(raw[begin:end], "<f4").reshape(entry["shape"])
    assert end == len(raw)
    return tables


def test_some_tables_and_no_keys(trained, tmp_path):
    out = tmp_path / "out"
    words = ["tables", "export", str(trained.folder), str(out), "--table", "shop", "--no-keys"]
    assert main(words) == 0
    assert [file.name for file in out.iterdir()] == ["shop.parquet"]
    assert set(described_keys(out, "shop", "parquet")) == {None}


def test_keys_of_every_kind(trained):
    config = make_config(
        {"parameters": {"label": "label", "features": FEATURES, "embedding_dim": 8}}
    )
    program = load_program("workers.programs.columns:program", config.parameters)
    data = [open_dataset(trained.folder.parent / "data", "train")]
    assert keys_of(program, "price", []).of(1) == "[1, 2)"
    assert keys_of(program, "seen", []).of(8) == "8"
    assert keys_of(program, "user", []).row_of("7") == 7
    tags = keys_of(program, "tags", data)
    assert {key for keys in tags.keys.values() for key in keys} == {"t0", "t1", "t2"}
    route = keys_of(program, "route", data)
    assert all(len(key.split(" × ")) == 2 for keys in route.keys.values() for key in keys)
    schema = program.schema
    table = pq.read_table(trained.folder.parent / "data" / "a.parquet")
    examples = schema.apply(table)
    for row, tag in zip(examples.ids["tags"][3], ["t0", "t1", "t2"], strict=True):
        assert tag in tags.keys[int(row)]
    # Columns of a combination are joined in the order of their names.
    first = f"{table['city'][0]} × {table['user'][0]}"
    assert first in route.keys[int(examples.ids["route"][0, 0])]
    assert not keys_of(program, "shop", []).whole


def test_neighbours(trained, capsys):
    rows = trained.tables["user"]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit[:40] @ unit[3]
    cosines[3] = -2
    words = ["tables", "neighbours", str(trained.folder), "--table", "user", "--count", "3"]
    assert main([*words, "--id", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "row 3 of 'user': 3"
    near = [line.split() for line in said[1:]]
    want = np.argsort(-cosines)[:3]
    assert [int(line[1]) for line in near] == want.tolist()
    assert float(near[0][0]) == pytest.approx(cosines[want[0]], abs=1e-3)
    by_key = [*words[:3], "--table", "shop", "--key", "shop 7"]
    assert main(by_key) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("of 'shop': shop 7")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--table", "user", "--id", "45"], "row 45 of table 'user' was never trained"),
        (["--table", "user", "--id", "50"], "has rows 0 to 49, but none 50"),
        (["--table", "users", "--id", "5"], "no table 'users'; there are user, shop"),
        (["--table", "shop", "--key", "x"], "no row of table 'shop' is known for 'x'"),
        (["--table", "shop", "--id", "1", "--step", "7"], "no checkpoint 7; it holds 2"),
    ],
)
def test_what_cannot_be(words, said, trained, capsys):
    assert main(["tables", "neighbours", str(trained.folder), *words]) != 0
    assert said in capsys.readouterr().err


def test_no_run(tmp_path, capsys):
    assert main(["tables", "describe", str(tmp_path)]) == 2
    assert "is no run's folder" in capsys.readouterr().err


def test_neighbours_without_slots():
    table = SavedTable("t", np.array([[1.0, 0], [2, 0.1], [0, 1], [np.nan, 0]]), None)
    assert [row for row, _ in nearest_rows(table, 0, 5)] == [1, 2]
    figures = table.figures()
    assert (figures.trained, figures.not_finite) == (None, 1)


def test_the_command_writes_what_tensorboard_reads(trained, capsys):
    words = ["tables", "tensorboard", str(trained.folder), "--table", "user", "--table", "city"]
    assert main(words) == 0
    assert main(words) == 0  # takes the place of what was there
    said = capsys.readouterr().out
    assert "user: 40 of 50 rows" in said
    assert f"tensorboard --logdir {trained.folder}/tensorboard" in said
    folder = trained.folder / "tensorboard" / "tables"
    events = b"".join(file.read_bytes() for file in folder.glob("events.out.tfevents.*"))
    assert b"row_norms/user" in events
    assert b"row_norms/city" in events
    config = (folder / "projector_config.pbtxt").read_text()
    assert re.findall('tensor_name: "(.*)"', config) == ["city after step 2", "user after step 2"]
    for path in re.findall('_path: "(.*)"', config):
        assert (folder / path).is_file()
    rows = np.loadtxt(folder / "2" / "user" / "rows.tsv", delimiter="\t")
    lines = (folder / "2" / "user" / "values.tsv").read_text().splitlines()
    assert lines[0] == "row\tvalue"
    numbers = [int(line.split("\t")[0]) for line in lines[1:]]
    np.testing.assert_allclose(rows, trained.tables["user"][numbers], rtol=1e-5)
    cities = (folder / "2" / "city" / "values.tsv").read_text()
    assert "\tRome\n" in cities and "\tOslo\n" in cities


def test_secrets_come_as_words_anywhere_among_the_flags(trained, tmp_path, monkeypatch, capsys):
    """As the run's folder does not hold them."""

    def guarded(api_key: str, **parameters):
        assert api_key == "swordfish"
        return load_program("workers.programs.columns:program", parameters)

    monkeypatch.setitem(sys.modules, "guarded", SimpleNamespace(program=guarded))
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(trained.folder / "checkpoints")
    values = yaml.safe_load((trained.folder / "config.yaml").read_text())
    values["program"] = "guarded:program"
    values["parameters"]["api_key"] = HIDDEN
    (run / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    key = "parameters.api_key=swordfish"
    for words in (
        ["tables", "describe", str(run), key],
        ["tables", "neighbours", str(run), key, "--table", "user", "--id", "3"],
        ["tables", "neighbours", "--table", "shop", "--key", "shop 7", str(run), key],
        ["tables", "export", str(run), str(tmp_path / "out"), "--table", "shop", key],
        ["tables", "tensorboard", "--table", "user", str(run), "--most", "5", key],
    ):
        assert main(words) == 0, words
    assert "after step 2" in capsys.readouterr().out
    assert main(["tables", "describe", str(run), key, "seed=3"]) == 2
    assert "'seed' cannot be set here" in capsys.readouterr().err


def test_too_few_rows_are_refused(trained, capsys):
    assert main(["tables", "tensorboard", str(trained.folder), "--most", "0"]) == 2
    assert "--most is 0" in capsys.readouterr().err


def test_of_many_rows_the_longest_of_the_trained_are_taken(tmp_path):
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    rows[3] = np.nan
    trained_rows = np.arange(20) < 15
    assert chosen_rows(SavedTable("t", rows, trained_rows), 4).tolist() == [11, 12, 13, 14]
    assert 3 not in chosen_rows(SavedTable("t", rows, None), 100)
    nothing = SavedTable("t", rows, np.zeros(20, bool))
    with TableBoard(tmp_path / "board", 5) as board:
        board.histogram(nothing)
        assert board.projection(nothing, lambda name: RowKeys({}, True), 10) == 0
