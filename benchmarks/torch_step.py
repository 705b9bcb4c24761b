"""The rival of `benchmarks.step` in torch, run by a Python of its own.

    python torch_step.py step arrays.npz settings.json

Prints the least wall and CPU seconds of every part, and the first losses, as JSON. It imports
nothing of this project but its neighbour.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_rivals import make_bags


class Model:
    """A DLRM: bags, dot products of every two vectors, two stacks of layers, Adagrad for all."""

    def __init__(self, data: Any, work: dict[str, Any]) -> None:
        self.bags, self.inputs = make_bags(data, work)
        for number, bag in enumerate(self.bags):
            values = np.random.default_rng(number).random(bag.weight.shape, np.float32) - 0.5
            bag.weight.data.copy_(torch.from_numpy(values))
        self.dense = torch.from_numpy(data["dense"])
        self.labels = torch.from_numpy(data["labels"])
        self.bottom, self.top = (layers(data, name) for name in ("bottom", "top"))
        self.top = self.top[:-1]
        first, second = torch.triu_indices(work["tables"] + 1, work["tables"] + 1, 1)
        # Picking columns by one index is quicker than by two.
        self.upper = first * (work["tables"] + 1) + second
        options = {"lr": work["rate"], "initial_accumulator_value": work["accumulator"]}
        self.bag_optimizer = torch.optim.Adagrad([bag.weight for bag in self.bags], **options)
        parameters = [*self.bottom.parameters(), *self.top.parameters()]
        self.dense_optimizer = torch.optim.Adagrad(parameters, **options)
        self.rows = [row.detach().requires_grad_() for row in self.look_up()]
        self.gradients = [torch.randn_like(row) for row in self.rows]

    def look_up(self) -> list[torch.Tensor]:
        return [
            bag(ids, offsets, per_sample_weights=gains)
            for bag, (ids, offsets, gains) in zip(self.bags, self.inputs, strict=True)
        ]

    def loss(self, rows: list[torch.Tensor]) -> torch.Tensor:
        low = self.bottom(self.dense)
        stacked = torch.stack([low, *rows], dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
        joined = torch.cat([low, products.index_select(1, self.upper)], dim=1)
        logits = self.top(joined).squeeze(1)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, self.labels)

    def step(self) -> float:
        """The whole."""
        loss = self.loss(self.look_up())
        for optimizer in (self.bag_optimizer, self.dense_optimizer):
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.bag_optimizer.step()
        self.dense_optimizer.step()
        return loss.item()

    def dense_part(self) -> None:
        """From activations to their gradients."""
        loss = self.loss(self.rows)
        self.dense_optimizer.zero_grad(set_to_none=True)
        for row in self.rows:
            row.grad = None
        loss.backward()
        self.dense_optimizer.step()

    def embedding_part(self) -> None:
        """Lookup, and update with gradients at hand."""
        rows = self.look_up()
        self.bag_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(rows, self.gradients)
        self.bag_optimizer.step()


def layers(data: Any, name: str) -> torch.nn.Sequential:
    """Dense layers, each followed by a ReLU."""
    parts: list[torch.nn.Module] = []
    while f"{name}{len(parts) // 2} weight" in data:
        weight, bias = (torch.from_numpy(data[f"{name}{len(parts) // 2} {part}"])
                        for part in ("weight", "bias"))  # fmt: skip
        linear = torch.nn.Linear(*weight.shape)
        linear.weight.data.copy_(weight.T)
        linear.bias.data.copy_(bias)
        parts += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts)


def least(run: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Least wall and CPU seconds."""
    wall, cpu = [], []
    for _ in range(rounds + 1):
        start, used = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    return min(wall[1:]), min(cpu[1:])


if __name__ == "__main__":
    arrays, settings = sys.argv[2:]
    work = json.loads(Path(settings).read_text())
    with np.load(arrays) as data:
        model = Model(dict(data), work)
    losses = [model.step() for _ in range(work["losses"])]
    runs = {"step": model.step, "dense": model.dense_part, "embedding": model.embedding_part}
    times = {name: least(run, work["rounds"]) for name, run in runs.items()}
    print(json.dumps({"losses": losses, "seconds": times}))
