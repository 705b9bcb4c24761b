from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kernels
from kernels import utils
from kernels.layers.linen import EMBEDDING_PARAM_NAME, SparseCoreEmbed
from kernels.layers.sequences import sequence_activations
from kernels.sequence import flatten_sequences, sequence_feature_spec
from tests.kernels.layer_models import mesh_of, whole
from tests.kernels.support import fast_jit

LENGTH, SEQUENCES = 3, 16


def test_a_layer_gives_sequences_with_their_mask(monkeypatch):
    monkeypatch.setenv(utils.EMULATED_SPARSECORES, "2")
    table = kernels.TableSpec(
        name="items", vocabulary_size=20, embedding_dim=5, combiner="sum",
        initializer=jax.nn.initializers.normal(), optimizer=kernels.SGDOptimizerSpec(0.1),
    )  # fmt: skip
    specs = {
        "history": sequence_feature_spec("history", table, SEQUENCES, LENGTH),
        "item": kernels.FeatureSpec(
            name="item", table_spec=table, input_shape=(SEQUENCES, 1), output_shape=(SEQUENCES, 5)
        ),
    }
    kernels.prepare_feature_specs_for_training(specs, 4, 2)
    layer = SparseCoreEmbed(specs, "x", mesh_of())
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 20, rng.integers(0, 5)).tolist() for _ in range(SEQUENCES)]
    flat = flatten_sequences(histories, LENGTH)
    items = rng.integers(0, 20, (SEQUENCES, 1), np.int32)
    batch = layer.preprocess_inputs(0, {"history": flat.ids, "item": items}, None)
    params = fast_jit(layer.init)(jax.random.key(0), batch)
    rows = whole(specs, params["params"][EMBEDDING_PARAM_NAME].value, 4, 2)["items"].table

    @fast_jit
    def forward(params, batch, masks):
        return sequence_activations(layer.apply(params, batch), masks)

    found = forward(params, batch, {"history": flat.mask})
    np.testing.assert_allclose(found["item"], rows[items[:, 0]], rtol=1e-6)
    values, mask = found["history"]
    assert values.shape == (SEQUENCES, LENGTH, 5)
    np.testing.assert_array_equal(mask, flat.mask)
    for sequence, history in enumerate(histories):
        for position in range(LENGTH):
            held = position < len(history)
            assert bool(mask[sequence, position]) == held
            want = rows[history[position]] if held else np.zeros(5)
            np.testing.assert_allclose(values[sequence, position], want, rtol=1e-6)


def test_masks_must_fit():
    activations = {"a": jnp.zeros((6, 2))}
    with pytest.raises(kernels.SpecError, match="masks name 'b'"):
        sequence_activations(activations, {"b": np.ones((2, 3), bool)})
    with pytest.raises(kernels.SpecError, match="mask of feature 'a' has shape"):
        sequence_activations(activations, {"a": np.ones(6, bool)})
    with pytest.raises(kernels.SpecError, match="give the mask that flatten_sequences"):
        sequence_activations(activations, {"a": np.ones((1, 3), bool)})
