"""Embedding layers for flax, usable in any training loop.

    linen.py             `SparseCoreEmbed` for flax.linen
    nnx.py               `SparseCoreEmbed` and `PartitionedOptimizer` for flax.nnx
    embed_optimizer.py   an optax optimizer for models with the linen layer
    checkpoint_utils.py  saving nnx models, and restoring them on other meshes
    sequences.py         activations of sequence features, with their mask

Import the module for the flavour of flax you use; nothing is loaded from here.
"""
