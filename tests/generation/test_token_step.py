"""The single-token step on plain arrays equals the model's forward pass, up to rounding of 1e-12."""

import numpy as np
import pytest

from minilora import lora, no_grad
from minilora.generation import Decoding, Request, Sampler, generate, stream
from minilora.generation.token_step import can_step
from minilora.nn import Linear
from minilora.nn.choice import resolve
from tests.generation.texts import Script, far, texts_of

SHAPES = [
    {},
    {"num_key_value_heads": 1},
    {"num_key_value_heads": 4, "tie_word_embeddings": False},
    {"head_dim": 6, "rope_theta": 100.0, "rms_norm_eps": 0.1},
]
CHOICES = [
    None,
    {"a": 0.5, "b": -2.0},
    {},
    ["a", {}, "c"],
    [{"b": 1.5, "c": 0.25}, "a", "a"],
]


@no_grad()
def both(model, choice, seed=0, tokens=7):
    """Return the logits of `tokens` single tokens in three rows, from the step and from the model, and both caches.

    Each cache is a list of arrays (3, G, S, D): the keys and values of each layer in turn.
    """
    ids = np.random.default_rng(seed).integers(0, 17, (3, 2 + tokens))
    decoding, cache = Decoding(model), model.new_cache(3)
    for row, adapters in zip(ids, choice if isinstance(choice, list) else [choice] * 3, strict=True):
        decoding.add(Request(row[:2], tokens + 2, Script([*row[2:], 0]), adapters=adapters))
    steps = [decoding.step() for _ in range(tokens + 1)]
    rows = None if choice is None else resolve(model, choice, 3)
    model(ids[:, :2], cache, rows)
    expected = [model(ids[:, i : i + 1], cache, rows).data[:, 0] for i in range(2, 2 + tokens)]
    found = [[token.logits for token in step] for step in steps[1:]]
    theirs = [array[:, :, : cache.length] for layer in cache.layers for array in (layer.keys, layer.values)]
    return np.array(found), np.array(expected), held(decoding), theirs


def held(decoding):
    """Return the keys and values of texts of the same length, read from their bucket."""
    texts = texts_of(decoding)
    (bucket,), (length,) = {text.bucket for text in texts}, {text.length for text in texts}
    places = [bucket.texts.index(text) for text in texts]
    return [array[places, :, :length] for array in bucket.arrays]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_the_step_is_the_forward_pass_for_one_token(shape, choice, make_adapted):
    found, expected, mine, theirs = both(make_adapted(**shape), choice)
    assert found.dtype == expected.dtype
    assert far(found, expected) < 1e-12
    for array, other in zip(mine, theirs, strict=True):
        assert array.shape[2] == 9
        assert far(array, other) < 1e-12


def test_merged_adapters_count_once(make_adapted):
    model = make_adapted()
    apart, *_ = both(model, None)
    lora.merge(model)
    found, expected, *_ = both(model, None)
    assert far(found, expected) < 1e-12
    assert far(found, apart) < 1e-12


def test_float32_stays_float32(make_adapted):
    model = make_adapted()
    model.astype(np.float32)
    for choice in CHOICES:
        found, expected, *_ = both(model, choice)
        assert found.dtype == np.float32
        assert far(found, expected) < 1e-5


def test_scores_far_apart_do_not_overflow(make_model):
    model = make_model(0)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 1e3
        layer.mlp.gate_proj.weight.data *= 1e3
    with np.errstate(over="ignore", invalid="raise"):
        found, expected, *_ = both(model, None)
    assert np.isfinite(found).all()
    assert far(found, expected) < 1e-9


class Twice(Linear):
    """A user-defined Linear."""

    def forward(self, x):
        return super().forward(x) * 2


def test_a_linear_of_another_kind_is_called(make_model, prompts, without_cache):
    model = make_model(1)
    mlp = model.model.layers[0].mlp
    mlp.up_proj = Twice(mlp.up_proj.weight)
    assert can_step(model)
    (prompt,) = prompts(2, 4)
    (row,) = generate(model, [prompt], 20, Sampler(0))
    assert row.tolist() == without_cache(model, prompt, 20, Sampler(0))


def test_a_forward_that_was_put_into_a_module_is_called(make_model, prompts, without_cache):
    """For example, to study a layer without its attention."""
    model, (prompt,) = make_model(1), prompts(2, 4)
    (before,) = generate(model, [prompt], 20, Sampler(0))
    attention = model.model.layers[1].self_attn
    right = attention.forward
    attention.forward = lambda *rest: right(*rest) * 0.0
    assert not can_step(model)
    (row,) = generate(model, [prompt], 20, Sampler(0))
    assert row.tolist() == without_cache(model, prompt, 20, Sampler(0)) != before.tolist()


def test_other_active_adapters_meanwhile_change_no_text(adapted, prompts):
    """This holds even when the context is full and its newer half is processed again."""
    (expected,) = generate(adapted, prompts(3, 5), 40, Sampler(0))
    columns = stream(adapted, prompts(3, 5), 40, Sampler(0))
    found = [next(columns)[0] for _ in range(3)]
    lora.set_active(adapted, {"a": -3.0})
    found += [column[0] for column in columns]
    assert found == expected.tolist() != generate(adapted, prompts(3, 5), 40, Sampler(0))[0].tolist()


def test_in_training_dropout_acts(make_model):
    model = make_model(1)
    model.train(np.random.default_rng(0))
    assert not can_step(model)
    model.eval()
    assert can_step(model)


def test_a_forward_that_was_put_into_an_adapted_linear_is_called(adapted, prompts, without_cache):
    lora.set_active(adapted, None)
    base = adapted.model.layers[0].mlp.up_proj.base
    right = base.forward
    base.forward = lambda x: right(x) * 0.0
    (prompt,) = prompts(2, 4)
    (row,) = generate(adapted, [prompt], 20, Sampler(0))
    assert row.tolist() == without_cache(adapted, prompt, 20, Sampler(0))
