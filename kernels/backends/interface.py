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

__all__ = ["NO_ROW", "Backend", "StackInput", "StackLayout"]

NO_ROW: int = 2**31 - 1
"""A row number beyond every table: reads 0, writes nothing."""


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
    num_minibatches: jax.Array
    """``[1]`` int32: minibatches the buffers hold, 1 unless `StackLayout.enable_minibatching`."""


@dataclass(frozen=True)
class StackLayout:
    """What is known of a stack when a program is traced."""

    stack: StackedTableSpec
    devices: int
    """Devices of the mesh."""
    sparsecores_per_device: int
    axes: tuple[str, ...]
    """Mesh axes to exchange over; empty on one device."""
    enable_minibatching: bool = False
    """Whether the buffers are laid out in minibatches."""

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

    @property
    def name(self) -> str:
        """A short name."""
        ...

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

    def table_gradients(
        self, layout: StackLayout, batch: StackInput, gradients: jax.Array, table: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What `update` would hand to the optimizer: the gradients of the rows of the batch.

        Args:
            layout: The stack.
            batch: The buffers that were looked up.
            gradients: ``[samples of the device, width]``, of the loss by the activations.
            table: This device's rows; only its shape and type are used.

        Returns:
            ``(rows, row gradients)``: numbers of this device's rows, ``[R]`` int32, each once and
            ascending, `NO_ROW` (2^31 - 1) in unused places at the end; and the sum of the
            gradients of each, ``[R, width]`` float32, 0 in unused places.
        """
        ...
