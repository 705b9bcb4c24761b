"""A ranking model in the manner of DLRM and DCN v2.

    activations of all features ┐
                                ├─ concatenated: x0 ─ cross layers ─ hidden layers ─ logit
    dense columns               ┘

A cross layer multiplies the input with a linear map of what came before: ``x0 * (W x + b) + x``, so
``n`` of them reach products of ``n + 1`` inputs (Wang et al., "DCN V2", 2020, equation 1). The
embedding tables beside a dense part are those of Naumov et al., "Deep Learning Recommendation
Model", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["CrossLayer", "RankingModel"]


class CrossLayer(nn.Module):
    """``x0 * (W x + b) + x``; input and output ``[n, width]``."""

    @nn.compact
    def __call__(self, first: jax.Array, x: jax.Array) -> jax.Array:
        """One cross: ``first`` is the network's input, ``x`` the layer's."""
        return first * nn.Dense(x.shape[-1], name="map")(x) + x


class RankingModel(nn.Module):
    """Cross layers, then hidden layers, then one logit.

    Attributes:
        cross_layers: Number of cross layers.
        hidden: Widths of the hidden layers.
    """

    cross_layers: int = 2
    hidden: tuple[int, ...] = (64, 32)

    @nn.compact
    def __call__(self, activations: Mapping[str, jax.Array], dense: jax.Array) -> jax.Array:
        """Logits ``[n]`` from activations ``{feature: [n, width]}`` and dense ``[n, columns]``."""
        rows = [activations[name] for name in sorted(activations)]
        first = jnp.concatenate([*rows, dense], axis=-1)
        x = first
        for index in range(self.cross_layers):
            x = CrossLayer(name=f"cross_{index}")(first, x)
        for index, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"hidden_{index}")(x))
        return nn.Dense(1, name="logit")(x)[:, 0]
