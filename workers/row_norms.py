"""Norms of the rows of all tables, counted on the devices where the rows are.

A device goes over its rows of a stack in pieces: so many rows of one table on one SparseCore as fit
into a block. Of each piece it keeps counts by bin and sums, so what it needs beside the tables is
one block, and what comes to the host is about a kilobyte a piece. The host adds the pieces up. No
device waits for another.

    stack on a device   [ SparseCore 0: table a | table b | padding ][ SparseCore 1: … ]
    pieces               a a a a · b b ·                              a a a a · b b ·

All pieces of a stack are one loop, in which tables differ by numbers alone, so compiling takes as
long for a thousand tables as for one. Every row is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec, Sharding

from kernels import EmbeddingPlan, StackPlan, Topology
from workers.mesh import AXIS, platform_of, spread, table_format
from workers.norm_histogram import BINS, LOWEST, PER_DOUBLING, NormHistogram

__all__ = [
    "PieceNorms",
    "Pieces",
    "ends_of_pieces",
    "make_norms_step",
    "norms_on_host",
    "pieces_of",
]

MOST_ROWS = 1 << 15
"""Most rows of a block: a float32 counts far beyond it without loss."""

BLOCK_VALUES = 1 << 21
"""Most values of a block: 8 MiB of float32."""

PIECE_ROWS = 1024
"""A piece takes about as long as so many rows, however few it has."""

_ZERO, _BELOW, _ABOVE, _NOT_FINITE, _NO_ROW = range(BINS, BINS + 5)
_SIDE_BITS = 4
"""Bins are counted as a square, [16, 16]."""

# The exponent and the first bits behind the point of a float32 are the number of its bin.
_SHIFT = 23 - (PER_DOUBLING.bit_length() - 1)
_FIRST = int(np.float32(LOWEST).view(np.int32)) >> _SHIFT


type Numbers = np.ndarray | jax.Array


class Pieces(NamedTuple):
    """The pieces of a stack on a device, int32 ``[pieces]`` each; the same on all devices.

    Attributes:
        start: Row of the device's array that the block begins with.
        skipped: Rows at the block's beginning that belong to the piece before, or to no piece.
        local: What the block's first row is in the table's rows on its SparseCore; may be negative.
        core: Number of the SparseCore on its device.
        rotation: Of the table: row ``r`` is on SparseCore ``(r + rotation) % all``.
        full: Rows of the table that all SparseCores have.
        rest: So many SparseCores, in the table's order, have one row more.
        columns: Of the table, without padding.
    """

    start: Numbers
    skipped: Numbers
    local: Numbers
    core: Numbers
    rotation: Numbers
    full: Numbers
    rest: Numbers
    columns: Numbers


class PieceNorms(NamedTuple):
    """What pieces hold, ``[devices, pieces, …]``.

    Attributes:
        counts: int32 ``[…, 256]``: by bin; behind those between the edges come zero, below, above,
            not finite, and rows of the block that are not the piece's.
        least: float32: smallest finite norm, infinity without one.
        most: float32: largest finite norm, minus infinity without one.
        total: float32: sum of the finite norms over the rows of a block.
        squares: float32: sum of their squares over the rows of a block, so that it stays finite.
    """

    counts: Numbers
    least: Numbers
    most: Numbers
    total: Numbers
    squares: Numbers


def pieces_of(stack: StackPlan, plan: EmbeddingPlan) -> tuple[Pieces, int, np.ndarray]:
    """How a device goes over its rows of a stack.

    Returns:
        Pieces, rows of a block, and for each piece which of the stack's tables it is of.
    """
    cores, all_cores = plan.topology.sparsecores_per_device, plan.topology.sparsecores
    shard_rows = stack.vocab_size // all_cores
    rows = shard_rows * cores
    # Rows that the SparseCore with most of them has.
    held = {
        placed.table: -(-plan.table(placed.table).vocabulary_size // all_cores)
        for placed in stack.tables
    }
    block = _block_rows(list(held.values()), rows, stack.width)
    found: list[tuple[int, ...]] = []
    owners: list[int] = []
    for core in range(cores):
        for owner, placed in enumerate(stack.tables):
            table = plan.table(placed.table)
            full, rest = divmod(table.vocabulary_size, all_cores)
            begin = core * shard_rows + placed.row_offset_in_shard
            for first in range(0, held[placed.table], block):
                # The last blocks of the array begin earlier, so as to end with it.
                start = min(begin + first, rows - block)
                skipped = begin + first - start
                place = (start, skipped, first - skipped, core)
                found.append((*place, placed.shard_rotation, full, rest, table.embedding_dim))
                owners.append(owner)
    return Pieces(*np.array(found, np.int32).T), block, np.array(owners)


def _block_rows(held: list[int], rows: int, width: int) -> int:
    """Rows of a block that are soonest gone over, where tables have so many rows each."""
    most = max(8, min(MOST_ROWS, BLOCK_VALUES // width))
    sizes = {min(1 << power, most, rows) for power in range(8, 17)}

    def cost(size: int) -> int:
        return sum(-(-count // size) for count in held) * (size + PIECE_ROWS)

    return min(sorted(sizes), key=cost)


def make_norms_step(plan: EmbeddingPlan, mesh: Mesh) -> Any:
    """The jitted step: arrays of stacks, by name → `PieceNorms` of each.

    Nothing is donated.

    Args:
        plan: Where table rows lie.
        mesh: All devices.
    """
    topology = plan.topology

    def device_step(stacks: dict[str, jax.Array]) -> dict[str, PieceNorms]:
        device = jax.lax.axis_index(AXIS)
        found = {}
        for stack in plan.stacks:
            pieces, block, _ = pieces_of(stack, plan)
            ends = ends_of_pieces(pieces, device, topology)
            blocks = _blocks_of(stacks[stack.name], block, platform_of(mesh))
            found[stack.name] = _pieces_norms(blocks, stack.width, pieces, ends, block)
        return jax.tree.map(lambda leaf: leaf[None], found)

    mapped = jax.shard_map(
        device_step, mesh=mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS)
    )
    stored: Any = table_format(mesh)
    layouts: dict[str, Any] = {}
    if not isinstance(stored, Sharding):
        # On TPUs, tables in another layout than JAX's own must be announced.
        layouts = {"in_shardings": (stored,), "out_shardings": spread(mesh)}
    return jax.jit(mapped, **layouts)


def ends_of_pieces(pieces: Pieces, device: int | jax.Array, topology: Topology) -> Numbers:
    """Where the pieces end on a device, ``[pieces]``: a row of the block, or one beyond it.

    Args:
        pieces: The pieces of a stack.
        device: Number of the device in the mesh.
        topology: The plan's.
    """
    own = device * topology.sparsecores_per_device + pieces.core
    # Where the SparseCore comes in the table's order: the row of the table that it has first.
    order = (own - pieces.rotation) % topology.sparsecores
    return pieces.full + (order < pieces.rest) - pieces.local


def _blocks_of(array: jax.Array, block: int, platform: str) -> Callable[[Numbers], jax.Array]:
    """What takes a block out of a device's array: from its first row, ``[block, width]``.

    On TPUs a table lies as SparseCores read it. XLA would bring all of it into the order of the
    TensorCore before it takes rows, many times its size where rows are short. As one long row it
    lies alike in both orders, so only the block is turned. There are at most 2^32 values (16 GiB,
    the most that SparseCores take of a tensor), which an unsigned number can count.
    """
    rows, width = array.shape
    if platform != "tpu":
        return lambda start: jax.lax.dynamic_slice_in_dim(array, start, block)
    values = array.reshape(rows * width)

    def taken(start: Numbers) -> jax.Array:
        first = start.astype(jnp.uint32) * jnp.uint32(width)
        return jax.lax.dynamic_slice_in_dim(values, first, block * width).reshape(block, width)

    return taken


def _pieces_norms(
    block_at: Callable[[Numbers], jax.Array],
    width: int,
    pieces: Pieces,
    ends: Numbers,
    block: int,
) -> PieceNorms:
    """Norms of the pieces of a device's array, one piece after another."""
    place, column = jnp.arange(block), jnp.arange(width)

    def of_piece(piece: tuple[Pieces, Numbers]) -> PieceNorms:
        at, end = piece
        block_rows = block_at(at.start).astype(jnp.float32)
        wanted = (place >= at.skipped) & (place < end)
        values = jnp.where(column < at.columns, block_rows, 0.0)
        squares = jnp.sum(values * values, axis=1)
        finite = wanted & jnp.isfinite(squares)
        squares = jnp.where(finite, squares, 0.0)
        norms = jnp.sqrt(squares)
        return PieceNorms(
            counts=_counts(jnp.where(wanted, _bins_of(norms, finite), _NO_ROW)),
            least=jnp.min(jnp.where(finite, norms, jnp.inf)),
            most=jnp.max(jnp.where(finite, norms, -jnp.inf)),
            total=jnp.sum(norms / block),
            squares=jnp.sum(squares / block),
        )

    return jax.lax.map(of_piece, (Pieces(*[jnp.asarray(leaf) for leaf in pieces]), ends))


def _bins_of(norms: jax.Array, finite: jax.Array) -> jax.Array:
    bins = (jax.lax.bitcast_convert_type(norms, jnp.int32) >> _SHIFT) - _FIRST
    bins = jnp.where(bins < 0, _BELOW, jnp.where(bins >= BINS, _ABOVE, bins))
    bins = jnp.where(norms == 0, _ZERO, bins)
    return jnp.where(finite, bins, _NOT_FINITE)


def _counts(bins: jax.Array) -> jax.Array:
    """How often each bin occurs, int32 ``[256]``.

    As a product of two matrices of zeros and ones, which no kind of device is slow at, as some are
    at scattering.
    """
    side = jnp.arange(1 << _SIDE_BITS)
    high = ((bins >> _SIDE_BITS)[:, None] == side).astype(jnp.float32)
    low = ((bins & side[-1])[:, None] == side).astype(jnp.float32)
    return (high.T @ low).astype(jnp.int32).reshape(-1)


def norms_on_host(
    plan: EmbeddingPlan, counted: Mapping[str, PieceNorms]
) -> dict[str, NormHistogram]:
    """Histograms of this host's rows, by table: merge them over hosts.

    Args:
        plan: As given to `make_norms_step`.
        counted: What the step returned.
    """
    found: dict[str, NormHistogram] = {}
    for stack in plan.stacks:
        _, block, owners = pieces_of(stack, plan)
        own = PieceNorms(*[_own(leaf) for leaf in counted[stack.name]])
        for owner, placed in enumerate(stack.tables):
            mine = owners == owner
            found[placed.table] = _histogram(PieceNorms(*(leaf[:, mine] for leaf in own)), block)
    return found


def _own(array: Any) -> np.ndarray:
    """What this host's devices have, ``[devices, pieces, …]``."""
    return np.concatenate([np.asarray(shard.data) for shard in array.addressable_shards])


def _histogram(norms: PieceNorms, block: int) -> NormHistogram:
    counts = np.sum(norms.counts, axis=(0, 1), dtype=np.int64).tolist()
    least, most = float(np.min(norms.least)), float(np.max(norms.most))
    return NormHistogram.of_bins(
        counts[:BINS],
        zero=counts[_ZERO],
        below=counts[_BELOW],
        above=counts[_ABOVE],
        not_finite=counts[_NOT_FINITE],
        least=least if np.isfinite(least) else None,
        most=most if np.isfinite(most) else None,
        total=float(np.sum(norms.total, dtype=np.float64)) * block,
        squares=float(np.sum(norms.squares, dtype=np.float64)) * block,
    )
