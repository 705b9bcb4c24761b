"""A configuration from data and label alone; ``data describe`` and ``data join``."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from orchestrator.cli import main
from orchestrator.config_loading import load_config
from orchestrator.errors import ConfigError
from orchestrator.own_data import COLUMNS_PROGRAM, check_program, complete, run_length
from workers.errors import DataError
from workers.planning import check_inputs
from workers.program import load_program

ROWS = 600


@pytest.fixture
def data(tmp_path):
    r = np.random.default_rng(0)
    user = r.integers(0, 30, ROWS)
    table = pa.table(
        {
            "user": user,
            "price": r.lognormal(0, 1, ROWS),
            "at": 1_600_000_000 + np.arange(ROWS) * 3600,
            "stars": r.integers(1, 6, ROWS),
        }
    )
    (tmp_path / "logs").mkdir()
    pq.write_table(table, tmp_path / "logs" / "a.parquet", row_group_size=100)
    return str(tmp_path / "logs")


def test_data_and_label_make_a_configuration(data, tmp_path):
    said = []
    config = complete(load_config(None, [f"data={data}", "label=stars"]), said.append)
    assert (config.program, config.label) == (COLUMNS_PROGRAM, None)
    assert config.parameters["label"] == "stars"
    assert config.parameters["positive"] in (3.0, 4.0)
    assert {"user", "at_hour", "at_weekday"} == config.parameters["features"].keys()
    assert config.holdout.by == "random"
    assert any(line.startswith("held out: 10% of the rows, at random") for line in said)
    assert any("label 'stars' has 5 values" in line for line in said)

    # What is written down is a configuration like any other.
    (tmp_path / "that.yaml").write_text(config.to_yaml())
    again = load_config(tmp_path / "that.yaml")
    assert again == config and complete(again) == config
    program = load_program(again.program, again.parameters)
    summary = check_inputs(program, again.run_spec(data, str(tmp_path)), again.hosts)
    assert (summary.rows, summary.test_rows) == (540, 60)


def test_what_is_given_is_kept(data):
    words = [
        *(f"data={data}", "label=stars", "batch_size=64", "epochs=7"),
        *("parameters.positive=5", "parameters.embedding_dim=8"),
        *("parameters.features.at_hour=null", "parameters.numbers.price={log: true}"),
        *("holdout.by=time", "holdout.column=at", "holdout.share=0.25"),
    ]
    config = complete(load_config(None, words))
    assert (config.batch_size, config.epochs) == (64, 7)
    assert config.parameters["positive"] == 5 and config.parameters["embedding_dim"] == 8
    assert "at_hour" not in config.parameters["features"]
    assert config.parameters["numbers"]["price"] == {"log": True}
    assert config.holdout.start == 1_600_000_000 + 450 * 3600
    assert config.holdout.chosen() is not None
    assert config.identity(data)["holdout"]["start"] == config.holdout.start


def test_only_what_lacks_is_filled_in(data):
    config = load_config(None, ["batch_size=64"])
    assert complete(config) == config
    assert "holdout" not in config.identity("x"), "as runs before had none"


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["label=stars"], ConfigError, "needs data to look at: give data=PATH"),
        (["label=x", "program=a:b"], ConfigError, "stands beside the program 'a:b'"),
        (["data={data}", "label=nothing"], DataError, "no column 'nothing'; it has 'user'"),
        (["data={data}", "label=stars", "holdout.by=time"], DataError, "needs holdout.column"),
        (
            ["data={data}", "label=stars", "parameters.features.usr=null"],
            ConfigError,
            r"features.usr is null, but .* \(did you mean 'user'\?\)",
        ),
    ],
)
def test_what_cannot_be(words, error, said, data):
    with pytest.raises(error, match=said):
        complete(load_config(None, [word.format(data=data) for word in words]))


def test_data_without_a_label_or_a_program(data):
    said = r"without a label or a program: give label=COLUMN \(it has 'user', 'price'"
    with pytest.raises(ConfigError, match=said):
        check_program(load_config(None, [f"data={data}"]))
    check_program(load_config(None, [f"data={data}", "label=stars"]))
    check_program(load_config(None, ["data=synthetic:rows=10"]))
    check_program(load_config(None, []))


def test_the_same_command_again_goes_with_what_it_made(data, tmp_path):
    """A run that is resumed takes the columns as they were understood at first."""
    made = complete(load_config(None, [f"data={data}", "label=stars"]))
    (tmp_path / "config.yaml").write_text(made.to_yaml())
    words = [f"data={data}", "label=stars"]
    assert complete(load_config(tmp_path / "config.yaml", words)) == made
    with pytest.raises(ConfigError, match=r"'price' stands beside .* for the label 'stars'"):
        complete(load_config(tmp_path / "config.yaml", ["label=price"]))


def test_one_table_is_not_told_to_be_together(tmp_path, capsys):
    r = np.random.default_rng(0)
    table = pa.table({"user": r.integers(0, 30, ROWS), "stars": r.integers(0, 2, ROWS)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert main(["data", "describe", str(tmp_path), "label=stars"]) == 0
    assert "on 4 devices, one table: " in capsys.readouterr().out


def test_describe(data, capsys):
    assert main(["data", "describe", data, "label=stars"]) == 0
    said = capsys.readouterr().out
    assert "540 rows; all of them looked at" in said
    assert re.search(r"^user +int64 +0 +30 +\d\.\d% +\d\.\d% +0\.\d{3}$", said, re.MULTILINE)
    assert "ids: the name says ids, from 0 to 29: each is its own row" in said
    assert "time: a moment (s since 1970), over 25 days: its hour, weekday are ids" in said
    assert "limits for batches of 128 on 4 devices, 3 tables together:" in said
    assert main(["data", "describe", data]) == 0
    assert "label" not in capsys.readouterr().out
    assert main(["data", "describe", data, "label=stars", "--config"]) == 0
    written = yaml.safe_load(capsys.readouterr().out)
    assert written["program"] == COLUMNS_PROGRAM
    assert main(["data", "describe", data, "--config"]) == 2
    assert main(["data", "describe", data, "--rows", "0"]) == 2
    assert main(["data", "describe", f"{data}-none"]) == 2


def test_join(data, tmp_path, capsys):
    users = "user;age;stars\n" + "".join(f"{n};{20 + n};{n}\n" for n in range(29)) + "50;70;1\n"
    (tmp_path / "users.csv").write_text(users)
    out = str(tmp_path / "joined")
    words = ["data", "join", data, f"user={tmp_path}/users.csv", out]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "600 rows with age, user_stars added" in said
    assert "rows have a user without a side table's row: null there" in said
    (file,) = (tmp_path / "joined").iterdir()
    table = pq.read_table(file)
    assert table.column_names == ["user", "price", "at", "stars", "age", "user_stars"]
    for row in table.slice(0, 50).to_pylist():
        assert row["age"] == (None if row["user"] == 29 else 20 + row["user"])
    assert pq.ParquetFile(file).num_row_groups == 6
    assert main(words) == 2, "the output is there"
    assert "exists already" in capsys.readouterr().err
    for side, problem in (
        ("user", "'user' is not COLUMN=FILE"),
        ("user=nowhere.csv", "side table 'nowhere.csv' cannot be read"),
        (f"price={tmp_path}/users.csv", "has no column 'price' to join on"),
        (f"age={tmp_path}/users.csv", "to be joined on 'age', but the data has only"),
    ):
        assert main(["data", "join", data, side, f"{out}-2"]) == 2
        assert problem in capsys.readouterr().err
    (tmp_path / "twice.csv").write_text("user,age\n1,2\n1,3\n")
    assert main(["data", "join", data, f"user={tmp_path}/twice.csv", f"{out}-3"]) == 2
    assert "not different in every row" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [1, 1000, 100_000, 10**6, 10**9])
def test_length_of_a_run(rows):
    batch_size, epochs = run_length(rows)
    assert 128 <= batch_size <= 1024 and 1 <= epochs <= 5
    assert batch_size % 8 == 0
