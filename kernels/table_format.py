"""How a table lies on devices: its memory layout, and MOD sharding of a whole table.

The SparseCores of a TPU read rows of tables that are stored row by row in tiles of 8 entries.
Elsewhere JAX's own layout is right.
"""

from __future__ import annotations

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from kernels.errors import SpecError

__all__ = [
    "Layout",
    "MeshLike",
    "embedding_table_format",
    "embedding_table_format_with_sharding",
    "shard_emb_table",
    "unshard_emb_table",
]

type MeshLike = Mesh | AbstractMesh
"""A mesh, of devices or of their number only."""


def embedding_table_format(mesh: MeshLike, partition_spec: PartitionSpec) -> Sharding | Format:
    """The format to keep a table in: `embedding_table_format_with_sharding` of mesh and spec."""
    return embedding_table_format_with_sharding(NamedSharding(mesh, partition_spec))


def embedding_table_format_with_sharding(sharding: Sharding) -> Sharding | Format:
    """The format to keep a table ``[rows, width]`` in, usable as ``out_shardings`` of `jax.jit`.

    Args:
        sharding: How the table's rows lie on the devices.

    Returns:
        On TPUs, the sharding with the SparseCores' layout: rows one after another in tiles of 8.
        On every other platform the sharding itself. An abstract mesh that does not say what its
        devices are counts as one of TPUs.
    """
    kind = _device_kind(sharding)
    if kind and not kind.startswith("TPU"):
        return sharding
    return Format(Layout(major_to_minor=(0, 1), tiling=((8,),)), sharding)


def _device_kind(sharding: Sharding) -> str:
    """Model name of the sharding's devices; empty if it has none."""
    mesh = getattr(sharding, "mesh", None)
    if isinstance(mesh, AbstractMesh):
        return getattr(mesh.abstract_device, "device_kind", "")
    return next((device.device_kind for device in sharding.device_set), "")


def shard_emb_table[T: jax.typing.ArrayLike](
    table: T, *, num_devices: int, num_sc_per_device: int, sharding_strategy: str = "MOD"
) -> T:
    """A whole table cut into the shards of all devices.

    Row ``r`` goes to SparseCore ``r mod S``, to row ``r div S`` of its shard; a device's shards
    follow one another.

    Args:
        table: ``[vocabulary, ...]``; the vocabulary must be a multiple of all SparseCores.
        num_devices: Devices of the mesh.
        num_sc_per_device: SparseCores of a device.
        sharding_strategy: Only ``MOD``.

    Returns:
        ``[devices, vocabulary of a device, ...]``.

    Raises:
        SpecError: If the vocabulary cannot be divided, or the strategy is not ``MOD``.

    Example:
        >>> shard_emb_table(np.arange(8)[:, None], num_devices=2, num_sc_per_device=2)[0, :, 0]
        array([0, 4, 1, 5])
    """
    _only_mod(sharding_strategy)
    array: jax.Array = table  # pyright: ignore[reportAssignmentType]
    rows, rest = array.shape[0], array.shape[1:]
    if rows % (num_devices * num_sc_per_device):
        raise SpecError(
            f"a table of {rows} rows cannot be divided over {num_devices} devices of "
            f"{num_sc_per_device} SparseCores; pad it to a multiple of "
            f"{num_devices * num_sc_per_device} rows"
        )
    cut = array.reshape(-1, num_devices, num_sc_per_device, *rest)
    return cut.transpose(1, 2, 0, *range(3, cut.ndim)).reshape(  # pyright: ignore[reportReturnType]
        num_devices, rows // num_devices, *rest
    )


def unshard_emb_table[T: jax.typing.ArrayLike](
    sharded_table: T, num_sc_per_device: int, sharding_strategy: str = "MOD"
) -> T:
    """A whole table put together from its shards, the inverse of `shard_emb_table`.

    Args:
        sharded_table: ``[devices, vocabulary of a device, ...]``.
        num_sc_per_device: SparseCores of a device.
        sharding_strategy: Only ``MOD``.

    Returns:
        ``[vocabulary, ...]``.

    Raises:
        SpecError: If a device's rows cannot be divided, or the strategy is not ``MOD``.
    """
    _only_mod(sharding_strategy)
    array: jax.Array = sharded_table  # pyright: ignore[reportAssignmentType]
    devices, rows, *rest = array.shape
    if rows % num_sc_per_device:
        raise SpecError(
            f"{rows} rows of a device cannot lie on {num_sc_per_device} SparseCores; pass the "
            "number of SparseCores the table was sharded for"
        )
    cut = array.reshape(devices, num_sc_per_device, -1, *rest)
    return cut.transpose(2, 0, 1, *range(3, cut.ndim)).reshape(  # pyright: ignore[reportReturnType]
        devices * rows, *rest
    )


def _only_mod(sharding_strategy: str) -> None:
    if sharding_strategy != "MOD":
        raise SpecError(f"sharding strategy '{sharding_strategy}' is unknown; use 'MOD'")
