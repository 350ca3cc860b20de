"""Fixtures: models of unit scale (activations of order 1) with adapters that visibly change the output."""

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from tests.unit_scale import unit_scale_llama

SHAPE = {
    "vocab_size": 29,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="session")
def unit_llama():
    """unit_llama(seed, **config): a model with unit-scale weights, gains and embeddings."""
    return lambda seed=0, **config: unit_scale_llama(seed, **{**SHAPE, **config})


@pytest.fixture(scope="session")
def attach():
    """attach(model, adapter, seed, **options): inject an adapter with nonzero B."""

    def inject(model, adapter="default", seed=0, **options):
        config = lora.LoraConfig(**{"r": 3, "lora_alpha": 6, "init_lora_weights": False, **options})
        lora.inject(model, config, adapter, rng=np.random.default_rng(seed))
        return model

    return inject


@pytest.fixture(scope="session")
def two_adapters(unit_llama, attach):
    """two_adapters(**config): a model with adapters a (on q and v) and b (on q, up and down)."""

    def make(**config):
        model = unit_llama(**config)
        attach(model, "a", seed=1)
        attach(model, "b", seed=2, r=2, target_modules=["q_proj", "up_proj", "down_proj"])
        return model

    return make


@pytest.fixture(scope="session")
def three_adapters(two_adapters, attach):
    """three_adapters(): two_adapters in float64, plus c on all of layer 1, including q, with other ranks and scales."""

    def make():
        patterns = {"rank_pattern": {"mlp.up_proj": 4}, "alpha_pattern": {"q_proj": 9}, "use_rslora": True}
        model = attach(two_adapters(), "c", seed=3, r=5, target_modules=r"model\.layers\.1\..*", **patterns)
        model.astype(np.float64)
        return model

    return make


@pytest.fixture(scope="session")
def one_linear(unit_llama, attach):
    """one_linear(**options): a single adapted Linear (24 inputs, 12 outputs) in float64."""

    def make(**options):
        model = attach(unit_llama(intermediate_size=24), **{"target_modules": "all-linear", **options})
        model.astype(np.float64)
        return hosts(model)["model.layers.1.mlp.down_proj"]

    return make


@pytest.fixture(scope="session")
def ids():
    return np.random.default_rng(3).integers(29, size=(2, 9))


@pytest.fixture(scope="session")
def snapshot():
    """snapshot(model): the state that a rejected operation must leave unchanged."""

    def take(model):
        weights = {n: (p.data.tobytes(), str(p.dtype), p.requires_grad) for n, p in model.named_parameters()}
        modules = [(path, type(module), id(module)) for path, module in model.named_modules()]
        return weights, modules, lora.active(model), [m.merged for m in hosts(model).values()]

    return take
