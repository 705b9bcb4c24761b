"""A ranking model in the manner of DLRM and DCN v2.

    activations of all features ┐        ┌─ cross layers  ─┐
                                ├─ x0 ───┤                 ├─ concatenated ─ logit
    dense columns               ┘        └─ hidden layers ─┘
    (products of pairs of features, and a number of each, are added, where wanted)

A cross layer multiplies the input with a linear map of what came before: ``x0 * (W x + b) + x``, so
``n`` of them reach products of ``n + 1`` inputs; ``W`` may be of low rank, ``U V`` (Wang et al.,
"DCN V2", 2020, equations 1 and 4). The embedding tables beside a dense part are those of Naumov et
al., "Deep Learning Recommendation Model", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["CrossLayer", "RankingModel"]


class CrossLayer(nn.Module):
    """``x0 * (U V x + b) + x``; input and output ``[n, width]``.

    Attributes:
        rank: Rank of the map; None for a full one.
    """

    rank: int | None = None

    @nn.compact
    def __call__(self, first: jax.Array, x: jax.Array) -> jax.Array:
        """One cross: ``first`` is the network's input, ``x`` the layer's."""
        mapped = x if self.rank is None else nn.Dense(self.rank, use_bias=False, name="down")(x)
        return first * nn.Dense(x.shape[-1], name="up")(mapped) + x


class RankingModel(nn.Module):
    """Cross layers and hidden layers side by side, then one logit.

    The hidden units are smooth (GELU): a kink, as of ReLU, makes a difference in the last bit,
    which sums over another number of devices have, grow a thousandfold over a run.

    Attributes:
        cross_layers: Number of cross layers.
        cross_rank: Rank of their maps; None for full ones.
        hidden: Widths of the hidden layers.
        products: Whether the inner products of all pairs of features are added to the logit, as
            in factorization machines (Rendle, 2010) and DeepFM (Guo et al., 2017): they learn which
            user suits which item in far fewer steps. All features then have one width.
        linear: By feature, what the first column of its activation is multiplied with. It is then
            a number that is added to the logit, and no part of anything else: the linear term of
            factorization machines. Empty: there is none.
    """

    cross_layers: int = 2
    cross_rank: int | None = 32
    hidden: tuple[int, ...] = (128, 64)
    products: bool = False
    linear: tuple[tuple[str, float], ...] = ()

    @nn.compact
    def __call__(self, activations: Mapping[str, jax.Array], dense: jax.Array) -> jax.Array:
        """Logits ``[n]`` from activations ``{feature: [n, width]}`` and dense ``[n, columns]``."""
        own = 1 if self.linear else 0
        rows = [activations[name][:, own:] for name in sorted(activations)]
        first = jnp.concatenate([*rows, dense], axis=-1)
        crossed = first
        for index in range(self.cross_layers):
            crossed = CrossLayer(self.cross_rank, name=f"cross_{index}")(first, crossed)
        hidden = first
        for index, width in enumerate(self.hidden):
            hidden = nn.gelu(nn.Dense(width, name=f"hidden_{index}")(hidden))
        both = jnp.concatenate([crossed, hidden], axis=-1)
        logit = nn.Dense(1, name="logit")(both)[:, 0]
        for name, scale in self.linear:
            logit = logit + scale * activations[name][:, 0]
        return logit + _pair_products(rows) if self.products else logit


def _pair_products(rows: list[jax.Array]) -> jax.Array:
    """The sum of the inner products of all pairs, ``[n]``: half of (|sum|² - sum of |row|²)."""
    stacked = jnp.stack(rows, axis=1)
    of_sum = jnp.sum(jnp.square(jnp.sum(stacked, axis=1)), axis=-1)
    return (of_sum - jnp.sum(jnp.square(stacked), axis=(1, 2))) / 2
