"""The examples of docs/transforms.md and docs/preprocessing.md, run as they stand."""

from __future__ import annotations

import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kernels
from kernels import utils
from tests.kernels.support import mesh_of, several_features
from workers.data.examples import Schema

ROOT = Path(__file__).parents[2]
DEVICES = 4
HOSTS = 3


def blocks_of(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def run(block: str, **names: Any) -> dict[str, Any]:
    """Run a block that may use these names; all names after it."""
    exec(compile(block, "<docs>", "exec"), names)
    return names


def test_transforms_are_fitted_and_applied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    rows = 60
    cities = [None if row % 10 == 9 else f"city {row % 3}" for row in range(rows)]
    table = pa.table(
        {
            "user_id": [f"user {row}" for row in range(rows)],
            "city": cities,
            "hour": [row % 24 for row in range(rows)],
            "price": [None if row == 0 else float(row) for row in range(rows)],
            "genres": [["drama", "comedy", "western"]] * rows,
            "clicked_items": [list(range(row)) for row in range(rows)],
            "age": [None if row == 0 else 30.0 for row in range(rows)],
            "views": [float(row) for row in range(rows)],
            "label": [row % 2 for row in range(rows)],
        }
    )
    pq.write_table(table, tmp_path / "logs" / "part.parquet")
    transforms, fitting = blocks_of("transforms.md")

    # The vocabulary that one block writes is the one that the other reads.
    found = run(fitting)
    assert len(found["boundaries"]) <= 31
    (views,) = found["read_numbers"]("numbers.json")
    logs = np.log1p(np.arange(rows))
    assert (views.mean, views.scale) == pytest.approx((logs.mean(), logs.std()))

    made = run(transforms)
    schema = Schema(tuple(made["features"].items()), made["dense"], "label")
    schema.check(table.schema)
    examples = schema.apply(table)
    city = examples.ids["city"][:, 0]
    assert (made["city"].vocabulary_size, len(set(city))) == (3 + 16 + 1, 4)
    assert city[9] == made["city"].vocabulary_size - 1, "a null has an id of its own"
    assert examples.ids["price"][[0, 1, 59], 0].tolist() == [-1, 1, 3]
    assert examples.ids["genres"][0].tolist() == [1, 0, -1, -1, -1]
    assert (examples.ids["clicked"] >= 0).sum(1).tolist() == [min(row, 50) for row in range(rows)]
    np.testing.assert_allclose(examples.dense[:2, 0], [0, (30 - 41) / 14.2], rtol=1e-6)


@pytest.fixture
def page_specs(monkeypatch):
    """Features of the names on the page, placed, and how many devices they are placed on."""
    monkeypatch.setenv(utils.EMULATED_SPARSECORES, "1")

    def place(devices: int) -> dict[str, kernels.FeatureSpec]:
        every = several_features(8 * devices)
        specs = {name: every[name] for name in ("user", "clicked")}
        kernels.auto_stack_tables(specs, devices, 1)
        return specs

    return place


def test_ids_become_buffers(page_specs):
    first, _ = blocks_of("preprocessing.md")
    specs = page_specs(DEVICES)
    ids = {name: np.ones(spec.input_shape, np.int32) for name, spec in specs.items()}
    made = run(
        first,
        kernels=kernels,
        mesh=mesh_of(DEVICES),
        specs=specs,
        user_ids=ids["user"],
        clicked_ids=ids["clicked"],
    )
    want, _ = kernels.preprocess_sparse_dense_matmul_input(ids, None, specs, DEVICES, DEVICES)
    jax.tree.map(np.testing.assert_array_equal, made["batch"], want)
    assert made["stats"].max_ids_per_partition.keys() == want.lhs_gains.keys()


def free_ports() -> list[int]:
    """A port for each host."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(HOSTS)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_hosts_agree_on_minibatches(page_specs, monkeypatch):
    """Three hosts in three threads; only the addresses are others than on the page."""
    _, block = blocks_of("preprocessing.md")
    specs = page_specs(HOSTS * DEVICES)
    host_of_thread = threading.local()
    monkeypatch.setattr(jax, "process_count", lambda: HOSTS)
    monkeypatch.setattr(jax, "process_index", lambda: host_of_thread.number)
    ports = free_ports()

    def host(number: int) -> int:
        host_of_thread.number = number
        others = iter(ports[:number] + ports[number + 1 :])
        text = re.sub(r"10\.0\.0\.\d:4711", lambda _: f"127.0.0.1:{next(others)}", block)
        text = text.replace("4711", str(ports[number]))
        ids = {
            name: np.full((spec.input_shape[0] // HOSTS, spec.input_shape[1]), number, np.int32)
            for name, spec in specs.items()
        }
        made = run(text, kernels=kernels, ids=ids, specs=specs, step=0)
        made["link"].close()
        assert all(np.any(gains > 0) for gains in made["batch"].lhs_gains.values())
        return int(made["batch"].num_minibatches[0])

    with ThreadPoolExecutor(HOSTS) as threads:
        assert list(threads.map(host, range(HOSTS))) == [1] * HOSTS
