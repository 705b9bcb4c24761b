"""Activations of sequence features as the layers give them, sequence by sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels.errors import SpecError
from kernels.sequence import unflatten_sequences
from kernels.utils import name_list

__all__ = ["SequenceActivations", "sequence_activations"]


class SequenceActivations(NamedTuple):
    """A sequence feature's activations and which of its positions hold ids."""

    values: jax.Array
    """``[batch, max_sequence_length, columns]``, 0 where the mask is False."""
    mask: jax.Array
    """``[batch, max_sequence_length]`` bool."""


def sequence_activations(
    activations: Mapping[str, jax.Array], masks: Mapping[str, jax.typing.ArrayLike]
) -> dict[str, jax.Array | SequenceActivations]:
    """What a layer returned, with sequence features reshaped.

    Args:
        activations: By feature, ``[samples, columns]``.
        masks: By sequence feature, ``[batch, max_sequence_length]`` bool: the masks that
            `flatten_sequences` returned. They come to the model with the batch.

    Returns:
        By feature; those that have no mask are as they were.

    Raises:
        SpecError: If a mask is of no feature, or of another shape than its activations.

    Example:
        >>> flat = flatten_sequences(histories, max_sequence_length=20)
        >>> batch = layer.preprocess_inputs(step, {"history": flat.ids, "user": users}, None)
        >>> def forward(params, batch, masks):
        ...     found = sequence_activations(layer.apply(params, batch), masks)
        ...     values, mask = found["history"]
        >>> forward(params, batch, {"history": flat.mask})
    """
    if unknown := masks.keys() - activations.keys():
        raise SpecError(
            f"masks name {name_list(unknown)}, but the features are {name_list(activations)}; "
            "use the features' names"
        )
    result: dict[str, jax.Array | SequenceActivations] = dict(activations)
    for name, given in masks.items():
        mask = jnp.asarray(given, bool)
        if mask.ndim != 2:
            raise SpecError(
                f"the mask of feature '{name}' has shape {mask.shape}; give [batch, "
                "max_sequence_length]"
            )
        values = unflatten_sequences(activations[name], mask.shape[1], mask)
        result[name] = SequenceActivations(values, mask)
    return result
