"""Modules: parameter names, initial weights, tying, modes, and loading, which changes nothing if it fails."""

import copy

import numpy as np
import pytest

from minilora import Tensor
from minilora.nn import Linear, Llama, LlamaConfig, Module

LAYER = [
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
]


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_have_hugging_faces_names_and_shapes(tied, unit_llama):
    shapes = {name: p.shape for name, p in unit_llama(tie_word_embeddings=tied).named_parameters()}
    expected = {f"model.layers.{i}.{name}" for i in range(2) for name in LAYER}
    expected |= {"model.embed_tokens.weight", "model.norm.weight"} | (set() if tied else {"lm_head.weight"})
    assert shapes.keys() == expected
    assert shapes["model.layers.1.self_attn.q_proj.weight"] == (24, 12)  # (heads · head_dim, hidden_size)
    assert shapes["model.layers.1.self_attn.o_proj.weight"] == (12, 24)
    assert shapes["model.layers.1.mlp.down_proj.weight"] == (12, 20)


def test_lists_dicts_and_private_attributes():
    class Thing(Module):
        def __init__(self):
            self.parts = [Linear(Tensor(np.ones((2, 3)))), Linear(Tensor(np.ones((4, 3))))]
            self.table = {"a": Tensor(np.zeros(2)), "b": Linear(Tensor(np.zeros((1, 1))))}
            self.number = 3
            self._hidden = Tensor(np.zeros(5))

    thing = Thing()
    assert [name for name, _ in thing.named_parameters()] == [
        "table.a",
        "parts.0.weight",
        "parts.1.weight",
        "table.b.weight",
    ]
    assert [path for path, _ in thing.named_modules()] == ["", "parts.0", "parts.1", "table.b"]
    assert thing.parameters(trainable=True) == []


def test_fresh_weights_have_the_deviation_asked_for_and_another_seed_draws_others():
    """Projections that add to the residual stream are divided by the square root of their number."""
    config = LlamaConfig(num_hidden_layers=2, initializer_range=0.3)
    state, other = (Llama(config, np.random.default_rng(seed)).state_dict() for seed in (5, 6))
    for name, array in state.items():
        if "norm" not in name:
            deviation = 0.3 / 2 if "o_proj" in name or "down_proj" in name else 0.3
            assert array.std() == pytest.approx(deviation, rel=0.02)
            assert not np.array_equal(array, other[name])


def test_a_tied_head_is_the_embedding_and_a_deep_copy_shares_no_numbers(unit_llama, draw_ids):
    model = unit_llama(tie_word_embeddings=True)
    twin, ids = copy.deepcopy(model), draw_ids(model)
    before = model(ids).data
    for m in (model, twin):
        assert m.lm_head.weight is m.model.embed_tokens.weight
    np.testing.assert_array_equal(twin(ids).data, before)
    for p in twin.parameters():
        p.data += 1
    np.testing.assert_array_equal(model(ids).data, before)
    untied = unit_llama(tie_word_embeddings=False)
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


def test_loading_copies_in_and_shares_nothing(unit_llama):
    model, other = unit_llama(seed=1), unit_llama(seed=2)
    model.load_state_dict(other.state_dict())
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
        assert not np.shares_memory(model.state_dict()[name], array)


NORM, Q = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: None}, r"do not match this model: missing model\.norm\.weight$"),
        ({NORM: None, "surplus": np.ones(2)}, r"missing model\.norm\.weight; unknown surplus$"),
        ({Q: np.ones((12, 24))}, r"q_proj\.weight should have shape \(24, 12\), found \(12, 24\)$"),
        ({NORM: np.ones((1, 12))}, r"should have shape \(12,\), found \(1, 12\)$"),  # which could be broadcast
        (dict.fromkeys([f"model.layers.{i}.{name}" for i in range(2) for name in LAYER[4:7]]), "and 3 more$"),
    ],
    ids=["missing", "both", "transposed", "broadcastable", "many"],
)
def test_what_does_not_fit_is_named_and_changes_nothing(change, message, unit_llama):
    model = unit_llama(seed=1)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    state = {**unit_llama(seed=2).state_dict(), **change}
    with pytest.raises(ValueError, match=message):
        model.load_state_dict({name: array for name, array in state.items() if array is not None})
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_training_and_evaluation_mode_reach_every_module(unit_llama):
    model, rng = unit_llama(), np.random.default_rng(0)
    assert all(module.rng is None for _, module in model.named_modules())
    model.train(rng)
    assert all(module.rng is rng for _, module in model.named_modules())
    model.eval()
    assert all(module.rng is None for _, module in model.named_modules())


def test_another_type_for_all_parameters(unit_llama, draw_ids):
    model = unit_llama()
    ids, single = draw_ids(model), model(draw_ids(model)).data
    model.astype(np.float64)
    double = model(ids).data
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    assert 0 < np.abs(double - single).max() / np.abs(double).max() < 1e-5
    assert model.lm_head.weight is model.model.embed_tokens.weight
