"""Shared fixtures: unit-scale models in both libraries, and relative errors.

Small weights hide mistakes: attention becomes an average, the MLP contributes almost nothing, and wrong code agrees
with correct code. Here, activations are of order 1, norm gains differ from 1, and errors are relative.
"""

import os

import numpy as np
import pytest

from tests.unit_scale import unit_scale_llama

os.environ["HF_HUB_OFFLINE"] = "1"  # must be set before transformers is imported
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    pytest.importorskip("torch").set_num_threads(1)


@pytest.fixture(scope="session")
def unit_llama():
    """unit_llama(seed, **config): a minilora model with activations of order 1."""
    return lambda seed=0, **config: unit_scale_llama(seed, **{**SHAPE, **config})


@pytest.fixture(scope="session")
def in_transformers():
    """in_transformers(model): transformers' LlamaForCausalLM of the same shape with the same weights."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

    def make(model):
        shape = model.config
        config = transformers.LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_hidden_layers,
            num_attention_heads=shape.num_attention_heads,
            num_key_value_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=shape.max_position_embeddings,
            rms_norm_eps=shape.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
            tie_word_embeddings=shape.tie_word_embeddings,
            bos_token_id=None,
            eos_token_id=None,
        )
        theirs = transformers.LlamaForCausalLM(config).eval()
        weights = {name: torch.tensor(array) for name, array in model.state_dict().items()}
        absent = theirs.load_state_dict(weights, strict=False)
        assert not absent.unexpected_keys
        assert set(absent.missing_keys) <= ({"lm_head.weight"} if shape.tie_word_embeddings else set())
        return theirs

    return make


@pytest.fixture(scope="session")
def draw_ids():
    """draw_ids(model, batch, time): random token ids."""

    def draw(model, batch=3, time=11, seed=1):
        return np.random.default_rng(seed).integers(model.config.vocab_size, size=(batch, time))

    return draw


@pytest.fixture(scope="session")
def their_logits():
    """their_logits(model, ids): a torch model's logits as an array."""
    torch = pytest.importorskip("torch")

    def compute(model, ids):
        with torch.no_grad():
            return model(input_ids=torch.tensor(ids)).logits.numpy()

    return compute


@pytest.fixture(scope="session")
def off_by():
    """off_by(ours, theirs): the largest difference, relative to the largest value."""

    def measure(ours, theirs):
        assert ours.shape == theirs.shape
        return np.abs(ours - theirs).max() / np.abs(theirs).max()

    return measure


@pytest.fixture(scope="session")
def gradient_off_by():
    """gradient_off_by(ours, theirs): the norm of the difference, relative to the norm of `theirs`."""

    def measure(ours, theirs):
        assert ours.shape == theirs.shape
        assert np.linalg.norm(theirs) > 1e-3, "the gradient is too small for a meaningful comparison"
        return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)

    return measure


@pytest.fixture(scope="session")
def peft_adapted(in_transformers):
    """peft_adapted(model, **options): PEFT's version of the model, with an adapter with nonzero B."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")

    def make(model, seed=0, **options):
        torch.manual_seed(seed)
        config = peft.LoraConfig(**{"task_type": "CAUSAL_LM", "init_lora_weights": False, **options})
        return peft.get_peft_model(in_transformers(model), config).eval()

    return make
