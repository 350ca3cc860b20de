"""Names of parameters, and what loading checks before it changes anything."""

import copy

import numpy as np
import pytest

from minilora import Tensor
from minilora.nn import Linear, Module

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
def test_parameters_have_hugging_faces_names(tied, unit_llama):
    names = {name for name, _ in unit_llama(tie_word_embeddings=tied).named_parameters()}
    expected = {f"model.layers.{i}.{name}" for i in range(2) for name in LAYER}
    expected |= {"model.embed_tokens.weight", "model.norm.weight"} | (set() if tied else {"lm_head.weight"})
    assert names == expected


def test_shapes(unit_llama):
    shapes = {name: array.shape for name, array in unit_llama().state_dict().items()}
    assert shapes["model.layers.1.self_attn.q_proj.weight"] == (24, 12)  # heads · head_dim out, width in
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (12, 12)
    assert shapes["model.layers.1.self_attn.o_proj.weight"] == (12, 24)
    assert shapes["model.layers.1.mlp.down_proj.weight"] == (12, 20)
    assert shapes["model.embed_tokens.weight"] == (29, 12)


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


def test_the_same_seed_draws_the_same_bytes(unit_llama):
    from minilora.nn import Llama

    config = unit_llama().config
    first, second, other = (Llama(config, np.random.default_rng(seed)).state_dict() for seed in (5, 5, 6))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert all(not np.array_equal(first[name], other[name]) for name in first if "norm" not in name)


def test_a_tied_head_is_the_embedding(unit_llama):
    model = unit_llama(tie_word_embeddings=True)
    twin = copy.deepcopy(model)
    for m in (model, twin):
        assert m.lm_head.weight is m.model.embed_tokens.weight
    assert twin.lm_head.weight is not model.lm_head.weight
    untied = unit_llama(tie_word_embeddings=False)
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


def test_a_deep_copy_shares_no_numbers(unit_llama, draw_ids):
    model = unit_llama()
    twin, before = copy.deepcopy(model), model(draw_ids(model)).data
    np.testing.assert_array_equal(twin(draw_ids(model)).data, before)
    for p in twin.parameters():
        p.data += 1
    np.testing.assert_array_equal(model(draw_ids(model)).data, before)


def test_a_tied_model_loads_into_both_ends(unit_llama, draw_ids):
    model, other = unit_llama(seed=1), unit_llama(seed=2)
    ids = draw_ids(model)
    assert not np.array_equal(model(ids).data, other(ids).data)
    model.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(model(ids).data, other(ids).data)
    model.model.embed_tokens.weight.data += 1  # copied in, not shared
    assert not np.array_equal(model.state_dict()["model.embed_tokens.weight"], other.model.embed_tokens.weight.data)


NORM, Q = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop(NORM), r"do not fit this model: missing model\.norm\.weight$"),
        (lambda state: state.update(surplus=np.ones(2)), r"do not fit this model: unknown surplus$"),
        (
            lambda state: (state.pop(NORM), state.update(surplus=np.ones(2))),
            r"missing model\.norm\.weight; unknown surplus$",
        ),
        (
            lambda state: state.update({Q: state[Q].T.copy()}),
            r"q_proj\.weight should have shape \(24, 12\), found \(12, 24\)$",
        ),
        (lambda state: state.update({NORM: np.ones((1, 12))}), r"should have shape \(12,\), found \(1, 12\)$"),
        (lambda state: [state.pop(name) for name in list(state) if "mlp" in name], "and 3 more$"),
    ],
    ids=["missing", "unknown", "both", "transposed", "broadcastable", "many"],
)
def test_what_does_not_fit_is_named_and_changes_nothing(spoil, message, unit_llama):
    model = unit_llama(seed=1)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    state = dict(unit_llama(seed=2).state_dict())
    spoil(state)
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(state)
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
