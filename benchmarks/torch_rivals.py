"""The rivals of `benchmarks.kernels` in torch, run by a Python of their own.

    python torch_rivals.py torch|fbgemm ids.npz settings.json

Measures "forward" and "update" when told to (`turns.py`). Besides that it imports nothing of this
project.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import serve

HUGE_PAGE = 1 << 21
MADV_COLLAPSE = 25
TRIES = 5

Run = Callable[[Any], Any]


def use_huge_pages(tensor: torch.Tensor) -> None:
    """What emberay does with its tables: move the memory into huge pages (Linux 6.1)."""
    first = -(-tensor.data_ptr() // HUGE_PAGE) * HUGE_PAGE
    last = (tensor.data_ptr() + tensor.nbytes) // HUGE_PAGE * HUGE_PAGE
    advise = ctypes.CDLL(None, use_errno=True).madvise
    for _ in range(TRIES):  # it fails while the system has no huge page free
        if advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_COLLAPSE) == 0:
            return
        time.sleep(1)
    raise OSError(ctypes.get_errno(), "the tables could not be moved into huge pages")


def embedding_bags(data: Any, work: dict[str, Any]) -> tuple[Run, Run]:
    """EmbeddingBag with sparse gradients, and the sparse step of torch's Adagrad."""
    bags, inputs = make_bags(data, work)
    optimizer = torch.optim.Adagrad([bag.weight for bag in bags], lr=work["rate"])
    gradients = [torch.randn(work["batch"], work["width"]) for _ in bags]

    def forward(_: Any = None) -> list[torch.Tensor]:
        return [
            bag(ids, offsets, per_sample_weights=gains)
            for bag, (ids, offsets, gains) in zip(bags, inputs, strict=True)
        ]

    def update(outputs: list[torch.Tensor]) -> None:
        torch.autograd.backward(outputs, gradients)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if work["huge_pages"]:
        for bag in bags:
            use_huge_pages(bag.weight)
    return forward, update


def make_bags(data: Any, work: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """One bag for every table, and its ids, offsets and gains."""
    bags, inputs = [], []
    offsets = torch.arange(work["batch"]) * work["valency"]
    for number in range(work["tables"]):
        weight = torch.empty(work["rows"], work["width"]).uniform_(-0.5, 0.5)
        bags.append(
            torch.nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum", sparse=True)
        )
        ids = torch.from_numpy(data[f"ids{number}"].astype(np.int64)).reshape(-1)
        gains = torch.from_numpy(data[f"gains{number}"]).reshape(-1)
        inputs.append((ids, offsets, gains))
    return bags, inputs


def fbgemm(data: Any, work: dict[str, Any]) -> tuple[Run, Run]:
    """FBGEMM's table-batched embeddings on CPU, with Adagrad fused into the backward pass."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    tables, batch, valency = work["tables"], work["batch"], work["valency"]
    table = (work["rows"], work["width"], EmbeddingLocation.HOST, ComputeDevice.CPU)
    bags = SplitTableBatchedEmbeddingBagsCodegen(
        [table] * tables,
        optimizer=EmbOptimType.EXACT_ADAGRAD,
        learning_rate=work["rate"],
        pooling_mode=PoolingMode.SUM,
        device=torch.device("cpu"),
    )
    bags.init_embedding_weights_uniform(-0.5, 0.5)
    ids = np.concatenate([data[f"ids{n}"].reshape(-1) for n in range(tables)]).astype(np.int64)
    gains = np.concatenate([data[f"gains{n}"].reshape(-1) for n in range(tables)])
    given = (torch.from_numpy(ids), torch.arange(tables * batch + 1) * valency)
    weights = torch.from_numpy(gains)
    gradient = torch.randn(batch, tables * work["width"])

    def forward(_: Any = None) -> torch.Tensor:
        return bags(*given, per_sample_weights=weights)

    if work["huge_pages"]:
        use_huge_pages(bags.weights_host)
    return forward, lambda out: out.backward(gradient)


warnings.filterwarnings("ignore", message="Sparse invariant")

if __name__ == "__main__":
    kind, arrays, settings = sys.argv[1:]
    rival = {"torch": embedding_bags, "fbgemm": fbgemm}[kind]
    forward, update = rival(np.load(arrays), json.loads(Path(settings).read_text()))
    serve(
        {
            "forward": (lambda: None, torch.no_grad()(forward)),
            "update": (forward, update),
        }
    )
