"""Small models of unit scale in float64, where two ways of computing a token do not differ by rounding."""

import numpy as np
import pytest

from minilora import lora
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
    """make_model(seed, **shape)"""

    def make(seed=0, **shape):
        model = Llama(LlamaConfig(**{**SHAPE, **shape}), np.random.default_rng(seed))
        model.astype(np.float64)
        return model

    return make


@pytest.fixture(scope="session")
def make_adapted(make_model):
    """make_adapted(**shape): a model with adapters of other ranks in other linears; "b" is the active one."""

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


@pytest.fixture
def adapted(make_adapted):
    return make_adapted()


@pytest.fixture(scope="session")
def prompts():
    """prompts(seed, *lengths): random ids below 17."""
    return lambda seed, *lengths: [np.random.default_rng([seed, n]).integers(0, 17, n) for n in lengths]


@pytest.fixture(scope="session")
def without_cache():
    """without_cache(model, prompt, tokens, sampler, rng): every token from a whole new forward pass.

    What is seen is the text so far; when it grows beyond the context, the older half of the context is forgotten.
    """

    def write(model, prompt, tokens, sampler, rng=None):
        context, text, first = model.config.max_position_embeddings, list(prompt), 0
        for _ in range(tokens):
            if len(text) - first > context:
                first = len(text) - max(1, context // 2)
            logits = model(np.array([text[first:]])).data[:, -1]
            draws = rng.random(1) if rng else np.zeros(1)
            text.append(int(sampler.choose(logits, draws)[0]))
        return text[len(prompt) :]

    return write
