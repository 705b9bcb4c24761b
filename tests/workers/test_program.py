"""Programs: loading by name, and what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests.workers.small_program import program
from workers import Buckets, Feature, Ids, Program, load_program
from workers.errors import ProgramError

ROOT = Path(__file__).parents[2]
HERE = "tests.workers.small_program"


def test_a_program_is_loaded_by_name_with_its_parameters() -> None:
    loaded = load_program(f"{HERE}:program", {"vocabulary": 60})
    assert isinstance(loaded, Program)
    assert {table.name: table.vocabulary_size for table in loaded.tables}["item"] == 60


def test_total_steps_go_to_programs_that_ask_for_them() -> None:
    flights = load_program("workers.programs.flights:program", {}, total_steps=10)
    rate = flights.tables[0].optimizer.get_learning_rate
    assert (float(rate(0)), float(rate(5)), float(rate(10))) == pytest.approx((0.05, 0.025, 0.0))
    assert isinstance(load_program(f"{HERE}:program", {}, total_steps=10), Program)


@pytest.mark.parametrize(
    ("reference", "parameters", "problem"),
    [
        ("flights", {}, "must be written as package.module:callable"),
        ("no.such:program", {}, "no module 'no'"),
        (f"{HERE}:programme", {}, "has no callable 'programme'"),
        (f"{HERE}:program", {"vocabluary": 3}, r"did you mean 'vocabulary'\?"),
        (f"{HERE}:program", {"vocabulary": "many"}, "could not be made"),
        ("builtins:dict", {}, "returned dict, not a Program"),
    ],
)
def test_what_cannot_be_loaded_is_explained(
    reference: str, parameters: dict[str, object], problem: str
) -> None:
    with pytest.raises(ProgramError, match=problem):
        load_program(reference, parameters)


def test_a_module_that_fails_to_import_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_program.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ProgramError, match=r"failed: RuntimeError: no licence .*program.py:1\)"):
        load_program("broken_program:program", {})
    (tmp_path / "missing_import.py").write_text("import no_such_module")
    with pytest.raises(ProgramError, match=r"failed: ModuleNotFoundError: .*no_such_module"):
        load_program("missing_import:program", {})
    (tmp_path / "bad_syntax.py").write_text("def program(:")
    with pytest.raises(ProgramError, match=r"failed: SyntaxError: .*bad_syntax.py:1\)"):
        load_program("bad_syntax:program", {})


def test_inconsistent_programs_are_refused() -> None:
    good = program()
    item = good.features[0]
    with pytest.raises(ProgramError, match="feature names must be unique; repeated: item"):
        dataclasses.replace(good, features=(item, item))
    with pytest.raises(ProgramError, match="uses table 'shop', which is not among"):
        dataclasses.replace(good, features=(Feature("shop", "shop", Ids("shop", 3)),))
    with pytest.raises(ProgramError, match="has a vocabulary of 50; raise it to 51"):
        dataclasses.replace(good, features=(Feature("item", "item", Ids("item", 51)),))
    with pytest.raises(ProgramError, match="has no embedding feature"):
        dataclasses.replace(good, features=())


def test_planning_never_touches_the_programs_own_tables() -> None:
    made = program()
    specs = made.feature_specs(64)
    assert specs["item"].table_spec is not made.tables[0]
    assert specs["item"].input_shape == (64, 1)
    assert specs["tags"].output_shape == (64, 8)


def custom_loss(logits: jax.Array, labels: jax.Array, activations: object) -> jax.Array:
    return jnp.square(logits - labels)


def test_the_fingerprint_of_functions_is_the_same_in_another_process() -> None:
    with_function = dataclasses.replace(program(), loss=custom_loss)
    assert with_function.fingerprint() != program().fingerprint()
    code = (
        "import dataclasses; from tests.workers import test_program as t;"
        "print(dataclasses.replace(t.program(), loss=t.custom_loss).fingerprint())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == with_function.fingerprint()


def test_tables_beyond_32_bit_ids_and_unsorted_buckets_are_refused() -> None:
    with pytest.raises(ProgramError, match="hash into fewer rows"):
        program(vocabulary=2**31)
    with pytest.raises(ProgramError, match="boundaries must ascend"):
        Buckets("price", (1.0, 3.0, 2.0))


def test_the_fingerprint_changes_with_what_is_trained_only() -> None:
    assert program().fingerprint() == program().fingerprint()
    assert program(vocabulary=51).fingerprint() != program().fingerprint()
    assert program(linear=True).fingerprint() != program().fingerprint()
    renamed = dataclasses.replace(program(), label="other")
    assert renamed.fingerprint() != program().fingerprint()
