"""What grouped heads and rotary positions are, stated without another implementation."""

import math

import numpy as np
import pytest

from minilora import Tensor
from minilora.nn.attention import rotary_turns


def attention_of(model):
    model.astype(np.float64)
    return model.model.layers[0].self_attn


def test_grouped_heads_are_heads_that_share_keys_and_values(unit_llama, draw_ids):
    """Query heads 0 and 1 use key head 0, heads 2 and 3 key head 1: the same as four key heads in equal pairs."""
    grouped, full = unit_llama(num_key_value_heads=2), unit_llama(num_key_value_heads=4)
    state = dict(grouped.state_dict())
    for name in state:
        if "k_proj" in name or "v_proj" in name:
            heads = state[name].reshape(2, 6, 12)  # (G·D, C) -> (G, D, C)
            state[name] = np.repeat(heads, 2, axis=0).reshape(24, 12)
    full.load_state_dict(state)
    for model in (grouped, full):
        model.astype(np.float64)
    ids = draw_ids(grouped, time=70)
    expected = full(ids).data
    assert np.abs(grouped(ids).data - expected).max() < 1e-12 * np.abs(expected).max()


def test_only_the_distance_between_places_matters(unit_llama):
    model = unit_llama(rope_theta=50.0)
    attention = attention_of(model)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 9, 12)))
    here, there = (attention(x, rotary_turns(model.config, start, start + 9, np.empty(0))).data for start in (0, 77))
    assert np.abs(here - there).max() < 1e-12 * np.abs(here).max()


def test_without_turns_the_order_of_the_past_is_lost(unit_llama):
    """The last token's output ignores the order of the others when positions are not turned, and not otherwise."""
    model = unit_llama()
    attention = attention_of(model)
    x = np.random.default_rng(0).standard_normal((1, 9, 12))
    shuffled = x[:, [5, 2, 7, 0, 1, 4, 3, 6, 8]]
    cos, sin = rotary_turns(model.config, 0, 9, np.empty(0))
    still = np.ones_like(cos), np.zeros_like(sin)
    last, last_shuffled = (attention(Tensor(v), still).data[:, -1] for v in (x, shuffled))
    np.testing.assert_allclose(last, last_shuffled, rtol=1e-12)
    last, last_shuffled = (attention(Tensor(v), (cos, sin)).data[:, -1] for v in (x, shuffled))
    assert np.abs(last - last_shuffled).max() > 0.01 * np.abs(last).max()


@pytest.mark.parametrize("theta", [10000.0, 500000.0, 7.0])
def test_the_angles(theta, unit_llama):
    """Position times theta^(-2i/D), right to float32's last digits far into a long text."""
    config = unit_llama(head_dim=8, rope_theta=theta).config
    cos, sin = rotary_turns(config, 9990, 9993, np.empty(0, np.float32))
    assert cos.shape == sin.shape == (3, 1, 4)
    assert cos.dtype == sin.dtype == np.float32
    for t, position in enumerate(range(9990, 9993)):
        for i in range(4):
            angle = position * theta ** (-2 * i / 8)
            assert cos[t, 0, i] == pytest.approx(math.cos(angle), abs=1e-7)
            assert sin[t, 0, i] == pytest.approx(math.sin(angle), abs=1e-7)
