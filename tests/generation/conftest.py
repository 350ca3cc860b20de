"""Fixtures: small models of unit scale in float64, where rounding does not change the choice of a token."""

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.family.dora import DoraConfig
from minilora.nn import Llama, LlamaConfig

SHAPE = {
    "vocab_size": 17,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 12,
    "initializer_range": 0.6,
}


@pytest.fixture(scope="session")
def make_model():
    """make_model(seed, **shape): a float64 model without adapters."""

    def make(seed=0, **shape):
        model = Llama(LlamaConfig(**{**SHAPE, **shape}), np.random.default_rng(seed))
        model.astype(np.float64)
        return model

    return make


@pytest.fixture(scope="session")
def make_adapted(make_model):
    """make_adapted(**shape): a model with adapters "a", "b", "c" of different ranks and targets; "b" is active."""

    def make(**shape):
        model = make_model(**shape)
        last = "lm_head" if shape.get("tie_word_embeddings") is False else r".*\.1\..*"
        for r, (name, targets) in enumerate(zip("abc", ["all-linear", ["k_proj", "gate_proj"], last], strict=True), 2):
            config = lora.LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets, init_lora_weights=False)
            lora.inject(model, config, adapter=name, rng=np.random.default_rng(r))
        lora.set_active(model, "b")
        model.astype(np.float64)
        return model

    return make


@pytest.fixture(scope="session")
def make_family(make_adapted):
    """make_family(**shape): like make_adapted, plus "d", a DoRA with dropout. Its updates have no factors."""

    def make(**shape):
        model = make_adapted(**shape)
        options = {"lora_dropout": 0.5, "init_lora_weights": False, "target_modules": ["q_proj", "up_proj", "o_proj"]}
        lora.inject(model, DoraConfig(r=2, lora_alpha=4, **options), adapter="d", rng=np.random.default_rng(5))
        for host in hosts(model, "d").values():  # as after training: the magnitudes differ from the initial row norms
            host.updates["d"].lora_magnitude_vector.data *= np.linspace(0.5, 1.5, host.out_features)
        lora.set_active(model, "b")
        model.astype(np.float64)
        return model

    return make


@pytest.fixture
def adapted(make_adapted):
    return make_adapted()


@pytest.fixture
def family(make_family):
    return make_family()


@pytest.fixture(scope="session")
def prompts():
    """prompts(seed, *lengths): one prompt of random ids below 17 per length."""
    return lambda seed, *lengths: [np.random.default_rng([seed, n]).integers(0, 17, n) for n in lengths]


@pytest.fixture(scope="session")
def whole_passes():
    """whole_passes(model, prompt, tokens, sampler, rng, adapters): tokens and logits from full forward passes.

    Each pass processes the text so far. When the text exceeds the context, its older half is dropped.
    """

    def write(model, prompt, tokens, sampler, rng=None, adapters=None):
        context, text, first = model.config.max_position_embeddings, list(prompt), 0
        for _ in range(tokens):
            if len(text) - first > context:
                first = len(text) - max(1, context // 2)
            logits = model(np.array([text[first:]]), adapters=adapters).data[:, -1]
            draws = rng.random(1) if rng else np.zeros(1)
            text.append(int(sampler.choose(logits, draws)[0]))
            yield text[-1], logits[0]

    return write


@pytest.fixture(scope="session")
def without_cache(whole_passes):
    """without_cache(model, prompt, tokens, sampler, rng): like whole_passes, but only the tokens."""
    return lambda *rest: [token for token, _ in whole_passes(*rest)]
