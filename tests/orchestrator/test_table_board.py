"""``tables tensorboard``: histograms of row norms, and rows for the projector."""

import re

import numpy as np
from test_tables import trained

from orchestrator.cli import main
from orchestrator.table_board import TableBoard, chosen_rows
from workers.saved_tables import SavedTable
from workers.table_keys import RowKeys

__all__ = ["trained"]


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
