"""``predict``: every row once, as an evaluation sees it; ``export``: the same without us."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jax import export

from kernels import EmbeddingPlan
from kernels.errors import LimitsExceeded, Overflow
from orchestrator import predicting
from orchestrator.cli import main
from orchestrator.errors import ConfigError, RunFailed
from orchestrator.predict_settings import predict_settings
from orchestrator.predicting import Predictions, predict
from orchestrator.prediction_run import Interrupted
from tests.trained_run import open_here, train_here
from workers import run_data
from workers.errors import DataError
from workers.prediction_files import whole_parts
from workers.prediction_protocol import Predict
from workers.protocol import Prepare

ROWS = 500
FEATURES = {
    "user": {"kind": "ids", "rows": 50},
    "shop": {"kind": "hashed", "rows": 64},
    "city": {"kind": "vocabulary", "values": ["Rome", "Oslo"]},
    "tags": {"kind": "list", "of": "hashed", "rows": 64, "most": 3, "separator": "|"},
}


def rows_of(seed: int, rows: int = ROWS) -> pa.Table:
    r = np.random.default_rng(seed)
    user = r.integers(0, 40, rows)
    return pa.table(
        {
            "key": [f"row {n}" for n in range(rows)],
            "user": user,
            "shop": [f"shop {n}" for n in r.integers(0, 30, rows)],
            "city": [["Rome", "Oslo", "Lima"][n] for n in r.integers(0, 3, rows)],
            "tags": ["|".join(f"t{n}" for n in range(row % 4)) for row in range(rows)],
            "price": r.uniform(0, 3, rows),
            "label": (user + r.integers(0, 20, rows) > 30).astype(int),
        }
    )


@dataclass
class Trained:
    folder: Path
    data: Path
    figures: dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    base = tmp_path_factory.mktemp("predict")
    for split, seed in (("train", 0), ("test", 1)):
        (base / "data" / split).mkdir(parents=True)
        table = rows_of(seed)
        pq.write_table(table.slice(0, 300), base / "data" / split / "a.parquet", row_group_size=70)
        pq.write_table(table.slice(300), base / "data" / split / "b.parquet")
    figures = train_here(
        base / "run",
        (4, 6),
        program="workers.programs.columns:program",
        parameters={
            "label": "label",
            "features": FEATURES,
            "numbers": {"price": {"mean": 1.5}},
            "embedding_dim": 8,
        },
        data=str(base / "data"),
        batch_size=64,
        failures={"grace": 0.0, "restart_delay": 0.0, "max_restarts": 2},
    )
    return Trained(base / "run", base / "data", figures)


@pytest.fixture
def run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Predicts with these words, in this process."""

    def predict_here(*words: str, disturb: Any = lambda command: None) -> Predictions:
        monkeypatch.setattr(predicting, "open_hosts", open_here(disturb))
        settings, config = predict_settings(trained.folder, words)
        return predict(trained.folder, settings, config, say=lambda line: None)

    return predict_here


def test_every_row_once_as_the_evaluation_sees_it(trained, run, tmp_path):
    made = run(f"out={tmp_path / 'out'}", "split=test", "part_rows=170", "keep=key,label")
    assert (made.rows, made.parts, made.step, made.kept_parts) == (ROWS, 3, 6, 0)
    names = sorted(file.name for file in made.folder.iterdir())
    assert names == ["_predictions.json", *(f"part-{n:06d}.parquet" for n in range(3))]
    assert [pq.read_metadata(made.folder / name).num_rows for name in names[1:]] == [170, 170, 160]
    found = pq.read_table(made.folder)
    assert found.column_names == ["key", "label", "logit", "prediction"]
    assert found["key"].to_pylist() == [f"row {n}" for n in range(ROWS)]
    labels, logits = found["label"].to_numpy(), found["logit"].to_numpy().astype(float)
    losses = np.logaddexp(0, logits) - labels * logits
    assert losses.mean() == pytest.approx(trained.figures[6]["loss"], rel=1e-5)
    assert found["prediction"].to_numpy() == pytest.approx(1 / (1 + np.exp(-logits)), rel=1e-5)
    assert len(np.unique(logits)) > 100
    again = run(f"out={tmp_path / 'out'}", "split=test", "part_rows=170", "keep=key,label")
    assert (again.kept_parts, again.seconds) == (3, 0.0)
    with pytest.raises(ConfigError, match="exists already"):
        run(f"out={tmp_path / 'out'}", "split=train", "part_rows=170", "keep=key,label")


def test_data_without_labels_in_another_order_and_batch(run, trained, tmp_path):
    whole = run(f"out={tmp_path / 'whole'}", "split=test")
    order = np.random.default_rng(2).permutation(ROWS)
    table = rows_of(1).drop_columns(["label"])
    # More than the model has seen: an id and strings without rows of their own in training.
    pq.write_table(table.take(pa.array(order)), tmp_path / "new.parquet", row_group_size=99)
    other = run(
        *(f"out={tmp_path / 'out'}", f"data={tmp_path / 'new.parquet'}", "keep=[key]"),
        *("batch_size=128", "part_rows=99"),
    )
    found = pq.read_table(other.folder)
    assert found["key"].to_pylist() == [f"row {n}" for n in order]
    logits = pq.read_table(whole.folder)["logit"].to_numpy()
    np.testing.assert_allclose(found["logit"].to_numpy(), logits[order], rtol=1e-5, atol=1e-6)


def test_checkpoints_are_chosen(run, trained, tmp_path):
    steps = {
        word: run(f"out={tmp_path / word}", "split=test", f"step={word}").step
        for word in ("newest", "best", "4")
    }
    best = max(trained.figures, key=lambda step: trained.figures[step]["auc"])
    assert steps == {"newest": 6, "best": best, "4": 4}
    old, new = (pq.read_table(tmp_path / word)["logit"].to_numpy() for word in ("4", "newest"))
    assert np.abs(old - new).max() > 1e-3
    for word, said in (("5", "no checkpoint of step 5; .*4, 6"), ("last", "newest, best, or")):
        with pytest.raises(ConfigError, match=said):
            run(f"out={tmp_path / 'x'}", "split=test", f"step={word}")


def test_it_goes_on_where_it_was_ended(run, trained, tmp_path):
    words = (f"out={tmp_path / 'out'}", "split=test", "part_rows=100", "keep=key")
    draft = tmp_path / ".out.predicting"
    seen: list[int] = []

    def kill(command: Any) -> None:
        if isinstance(command, Predict):
            seen.extend(command.parts)
            if 2 in command.parts:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(*words, disturb=kill)
    assert seen == [0, 1, 2] and not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"other predictions \(keep was"):
        run(*words[:-1])
    # A damaged part, as a disk may leave it, and a draft of a process that was killed.
    (draft / "part-000001.parquet").write_bytes(b"PAR1")
    (draft / ".part-000003.parquet.7.partial").write_bytes(b"")
    assert whole_parts(draft, dict.fromkeys(range(5), 100)) == {0}
    seen.clear()
    made = run(*words, disturb=lambda c: seen.extend(c.parts) if isinstance(c, Predict) else None)
    assert (made.kept_parts, seen) == (1, [1, 2, 3, 4])
    assert pq.read_table(made.folder)["key"].to_pylist() == [f"row {n}" for n in range(ROWS)]
    assert not draft.exists()


def test_failures_are_mended_or_told(run, trained, tmp_path):
    plans: list[str] = []
    failures: dict[tuple[int, ...], Exception] = {
        (0,): RuntimeError("a device is gone"),
        (1,): LimitsExceeded([Overflow("city_shop_tags_user", "max_ids_per_partition", 8, 400)]),
    }

    def once(command: Any) -> None:
        plans.extend([command.plan] if isinstance(command, Prepare) else [])
        if isinstance(command, Predict) and command.parts in failures:
            raise failures.pop(command.parts)

    words = ("split=test", "part_rows=250")
    made = run(f"out={tmp_path / 'out'}", *words, disturb=once)
    assert (made.parts, made.rows, failures) == (2, ROWS, {})
    limits = [EmbeddingPlan.from_json(p).stacks[0].limits.max_ids_per_partition for p in plans]
    assert limits[0] == limits[1] < 400 <= limits[2], "launched anew, then with more room"

    def always(command: Any) -> None:
        if isinstance(command, Predict):
            raise RuntimeError("a device is gone")

    with pytest.raises(RunFailed, match="gave up with 2 parts to write, after 3 failures"):
        run(f"out={tmp_path / 'never'}", *words, disturb=always)


def test_hosts_are_told_of_the_files_instead_of_opening_all(run, tmp_path, monkeypatch):
    opening = Mock(wraps=run_data.open_dataset)
    monkeypatch.setattr(run_data, "open_dataset", opening)
    assert run(f"out={tmp_path / 'out'}", "split=test").rows == ROWS
    assert opening.call_count == 1, "the driver alone"

    # They look into some, as those that they have at the same path may be others.
    def other_rows(*arguments: Any, index: Any = run_data.read_index) -> Any:
        found = index(*arguments)
        for data in (found or {}).values():
            first = replace(data.row_groups[0], rows=data.row_groups[0].rows - 1)
            found["test"] = replace(data, row_groups=(first, *data.row_groups[1:]))
        return found

    monkeypatch.setattr(run_data, "read_index", other_rows)
    with pytest.raises(DataError, match="host 0 sees other data than the driver"):
        run(f"out={tmp_path / 'other'}", "split=test", disturb=(told := Mock()))
    told.assert_not_called()


def test_rows_that_cannot_be_used(run, trained, tmp_path):
    table = rows_of(3, 40)
    users = table["user"].to_numpy().copy()
    users[7] = 99  # beyond the vocabulary
    table = table.set_column(1, "user", pa.array(users))
    pq.write_table(table, tmp_path / "bad.parquet")
    words = (f"out={tmp_path / 'out'}", f"data={tmp_path / 'bad.parquet'}", "keep=key")
    with pytest.raises(DataError, match="row 7, column 'user': id 99 is outside"):
        run(*words)
    made = run(*words, "quarantine=3")
    found = pq.read_table(made.folder)
    assert found["prediction"].is_null().to_pylist() == [row == 7 for row in range(40)]
    assert made.unusable == 1
    (told,) = [json.loads(f.read_text()) for f in (made.folder / "_quarantine").iterdir()]
    assert (told["row"], told["values"]["user"]) == (7, 99)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "out is missing: give out=PATH"),
        (["out=x", "splitt=test"], "no option 'splitt' .did you mean 'split'"),
        (["out=x", "parameters.embedding_dim=4"], "no option 'parameters.embedding_dim'"),
        (["out=x"], "has a 'test' split beside 'train': say which"),
        (["out=s3://bucket/x", "split=test"], "out: it must be a folder.*not an address"),
        (["out=x", "split=test", "keep=shop,colour"], "no column 'colour'; it has key, user"),
        (["out=x", "split=test", "method=rank"], "has no method 'rank'"),
        (["out=x", "split=test", "batch_size=7"], "batch_size 7 cannot be spread"),
        (["out=x", "split=test", "part_rows=0"], "part_rows"),
    ],
)
def test_what_cannot_be_used_is_told(words, said, run, capsys, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(trained.folder), *(words or ["data=x"])]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_secrets_that_no_folder_holds_are_given_again(tmp_path):
    config = "data: s3://(hidden)@bucket/logs\nparameters: {api_key: (hidden), width: 8}\n"
    (tmp_path / "config.yaml").write_text(config)
    words = ["out=x", "data=s3://KEY:SECRET@bucket/new", "parameters.api_key=swordfish"]
    with pytest.raises(ConfigError, match="does not hold data"):
        predict_settings(tmp_path, words[:1])
    settings, config = predict_settings(tmp_path, words)
    assert settings.data == config.data == "s3://KEY:SECRET@bucket/new"
    assert config.parameters == {"api_key": "swordfish", "width": 8}


def test_stopping(run, tmp_path, monkeypatch, trained):
    made = []
    real = predicting.PredictionRun

    def keep(*arguments: Any, **more: Any) -> Any:
        made.append(real(*arguments, **more))
        return made[-1]

    def stop(command: Any) -> None:
        made[-1].stopping = True

    monkeypatch.setattr(predicting, "PredictionRun", keep)
    with pytest.raises(Interrupted):
        run(f"out={tmp_path / 'out'}", "split=test", disturb=stop)


def test_lines_and_exit_code(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predicting, "open_hosts", open_here())
    assert main(["predict", str(trained.folder), f"out={tmp_path / 'out'}", "split=test"]) == 0
    said = capsys.readouterr().out
    assert "100%: 500 of 500 rows" in said
    assert f"500 rows predicted after step 6 in 1 files: {tmp_path / 'out'}" in said
    with pytest.raises(SystemExit, match="0"):
        main(["predict", "--help"])
    assert "part_rows" in capsys.readouterr().out


# Serving.

WITHOUT_US = """
import importlib, json, sys
for name in ("kernels", "workers", "orchestrator", "flax", "pyarrow"):
    try:
        importlib.import_module(name)
        raise SystemExit(f"{name} can be imported")
    except ModuleNotFoundError:
        pass
import numpy as np
import serve

folder, columns = sys.argv[1:]
model = serve.load(folder)
columns = json.load(open(columns))
whole = model.predict(columns)
few = model.predict({name: values[:5] for name, values in columns.items()})
np.testing.assert_allclose(few["logit"], whole["logit"][:5], rtol=1e-5)
ids, dense = model.encode(columns)
np.testing.assert_allclose(model.score(ids, dense)["logit"], whole["logit"], rtol=1e-5)
print(json.dumps({name: values.tolist() for name, values in whole.items()}))
"""


def python_without_us(libraries: Path, folder: Path, *words: str) -> str:
    """Run Python with jax, numpy and what jax imports, and with a folder, on its path."""
    libraries.mkdir(exist_ok=True)
    site = Path(jax.__file__).parents[1]
    for name in ("jax", "jaxlib", "ml_dtypes", "numpy", "numpy.libs", "opt_einsum", "scipy*"):
        for item in site.glob(name):
            if not item.name.endswith("-info") and not (libraries / item.name).exists():
                (libraries / item.name).symlink_to(item)
    begin = f"import sys; sys.path += [{str(libraries)!r}, {str(folder)!r}]\n"
    command = [sys.executable, "-I", "-S", "-c", begin + words[0], *words[1:]]
    environment = {"PATH": "/usr/bin", "HOME": str(libraries), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, env=environment, cwd=folder.parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page(trained, tmp_path, monkeypatch):
    """The commands and the example of docs/predicting.md, as they stand; parity of both."""
    page = (Path(__file__).parents[2] / "docs" / "predicting.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predicting, "open_hosts", open_here())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(trained.folder)
    (tmp_path / "new").mkdir()
    table = rows_of(5, 300)
    pq.write_table(table.drop_columns(["label"]), tmp_path / "new" / "a.parquet")
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line)
            assert words[:3] == ["python", "-m", "orchestrator"]
            assert main(words[3:]) == 0, line
    scores = pq.read_table(tmp_path / "scores")
    assert scores.column_names == ["key", "logit", "prediction"] and scores.num_rows == 300
    assert pq.read_table(tmp_path / "held-out").num_rows == ROWS
    listed = set(re.findall(r"^\| `([\w./]+)` \|", page.partition("## Serve")[2], re.MULTILINE))
    files = {file.name + ("/" if file.is_dir() else "") for file in Path("served").iterdir()}
    assert listed | {"README.md"} == files

    columns = {name: table[name].to_pylist() for name in ("user", "shop", "city", "tags", "price")}
    (tmp_path / "columns.json").write_text(json.dumps(columns))
    served = tmp_path / "served"
    said = python_without_us(
        tmp_path / "libraries", served, WITHOUT_US, str(served), str(tmp_path / "columns.json")
    )
    for name, values in json.loads(said).items():
        np.testing.assert_allclose(values, scores[name].to_numpy(), rtol=2e-5, atol=1e-6)
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert re.fullmatch(
        r"\[0\.\d+ +0\.\d+ *\]\n", python_without_us(tmp_path / "libraries", served, example)
    )
    exported = export.deserialize(bytearray((served / "model.jax_export").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")
    calls = set(re.findall(r"custom_call @([\w.]+)", exported.mlir_module()))
    assert calls <= {"shape_assertion"}, "nothing of ours is called"


def test_what_cannot_be_exported_is_told(trained, tmp_path, capsys):
    for words, said in (
        (["step=7"], "no checkpoint of step 7"),
        (["colour=red"], "export has no option 'colour'; it has step, method, batch"),
        (["batch=0"], "batch: .*greater than or equal to 1"),
        (["method=rank"], "has no method 'rank'"),
    ):
        assert main(["export", str(trained.folder), str(tmp_path / "out"), *words]) == 2
        assert re.search(said, capsys.readouterr().err)
    assert main(["export", str(trained.folder), str(trained.folder)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
