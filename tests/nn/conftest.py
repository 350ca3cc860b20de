"""Fixtures: models with activations of order 1, and random token ids."""

import numpy as np
import pytest

from tests.unit_scale import unit_scale_llama

SHAPE = {
    "vocab_size": 29,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 160,
}


@pytest.fixture(scope="session")
def unit_llama():
    """unit_llama(seed, **config): a model with unit-scale weights, gains and embeddings."""
    return lambda seed=0, **config: unit_scale_llama(seed, **{**SHAPE, **config})


@pytest.fixture(scope="session")
def draw_ids():
    """draw_ids(model, batch, time): random token ids."""

    def draw(model, batch=2, time=9, seed=1):
        return np.random.default_rng(seed).integers(model.config.vocab_size, size=(batch, time))

    return draw
