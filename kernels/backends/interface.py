"""What a backend does: lookup and update of one stack, on one device.

A backend sees the share of one device: its input buffers, its rows of the table, its samples. With
several devices it runs inside `jax.shard_map` and exchanges ids and rows over the mesh axes named
in `StackLayout.axes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax

from kernels.specs import StackedTableSpec
from kernels.variables import EmbeddingVariables

__all__ = ["Backend", "StackInput", "StackLayout"]


class StackInput(NamedTuple):
    """One stack's buffers on one device; see `kernels.preprocessing.format`."""

    row_pointers: jax.Array
    """``[per device * max(S, 8)]`` int32."""
    embedding_ids: jax.Array
    """``[per device * buffer]`` int32."""
    sample_ids: jax.Array
    """``[per device * buffer]`` int32."""
    gains: jax.Array
    """``[per device * buffer]`` float32."""


@dataclass(frozen=True)
class StackLayout:
    """What is known of a stack when a program is traced."""

    stack: StackedTableSpec
    devices: int
    """Devices of the mesh."""
    sparsecores_per_device: int
    axes: tuple[str, ...]
    """Mesh axes to exchange over; empty on one device."""

    @property
    def sparsecores(self) -> int:
        """SparseCores of the mesh, S."""
        return self.devices * self.sparsecores_per_device

    @property
    def samples_per_sparsecore(self) -> int:
        """Samples whose ids one SparseCore asks for."""
        return self.stack.total_sample_count // self.sparsecores


class Backend(Protocol):
    """Lookup and update of one stack on one kind of device."""

    name: str

    def lookup(self, layout: StackLayout, batch: StackInput, table: jax.Array) -> jax.Array:
        """Activations ``[samples of the device, width]`` float32, SparseCore by SparseCore."""
        ...

    def update(
        self,
        layout: StackLayout,
        batch: StackInput,
        variables: EmbeddingVariables,
        gradients: jax.Array,
        hyperparameters: tuple[jax.Array, ...],
        bounds: tuple[float | None, float | None],
    ) -> EmbeddingVariables:
        """The variables after one optimizer step for the rows of the batch.

        Args:
            layout: The stack.
            batch: The buffers that were looked up.
            variables: This device's rows.
            gradients: ``[samples of the device, width]``, of the loss by the activations.
            hyperparameters: What the optimizer's ``get_hyperparameters`` returned.
            bounds: Lowest and highest value of an updated entry, None for no bound.
        """
        ...
