"""The model against a plain implementation of its formulas: one text, head by head, token by token, in float64."""

import math

import numpy as np
import pytest

from minilora.nn.attention import rotary_tables

SHAPES = {
    "grouped": {},
    "one key head, head of its own": {"num_key_value_heads": 1, "tie_word_embeddings": False, "rope_theta": 30.0},
    "ungrouped, eps that can be felt": {"num_key_value_heads": 4, "head_dim": 8, "rms_norm_eps": 0.4},
}


def reference_logits(config, weights, ids):
    def norm(x, name):
        return weights[f"{name}.weight"] * x / np.sqrt((x * x).mean() + config.rms_norm_eps)

    def turned(head, position):
        """Rotate features i and i + D/2, the parts of a complex number, by the angle position · θ^(-2i/D)."""
        half = config.head_dim // 2
        angles = position * config.rope_theta ** (-2 * np.arange(half) / config.head_dim)
        pairs = (head[:half] + 1j * head[half:]) * np.exp(1j * angles)
        return np.concatenate([pairs.real, pairs.imag])

    def attention(xs, name):
        W = {part: weights[f"{name}.{part}_proj.weight"] for part in "qkvo"}
        D, group = config.head_dim, config.num_attention_heads // config.num_key_value_heads
        outs = np.zeros((len(xs), config.num_attention_heads, D))
        for h in range(config.num_attention_heads):
            rows, shared = slice(h * D, h * D + D), slice(h // group * D, h // group * D + D)
            for t in range(len(xs)):
                q = turned(W["q"][rows] @ xs[t], t)
                scores = [q @ turned(W["k"][shared] @ xs[s], s) / D**0.5 for s in range(t + 1)]
                p = np.exp(scores) / np.exp(scores).sum()
                outs[t, h] = sum(p[s] * (W["v"][shared] @ xs[s]) for s in range(t + 1))
        return [W["o"] @ out.ravel() for out in outs]

    def mlp(x, name):
        gate, up, down = (weights[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return down @ (gate @ x / (1 + np.exp(-gate @ x)) * (up @ x))

    xs = [weights["model.embed_tokens.weight"][i] for i in ids]
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        moves = attention([norm(x, f"{layer}.input_layernorm") for x in xs], f"{layer}.self_attn")
        xs = [x + move for x, move in zip(xs, moves, strict=True)]
        xs = [x + mlp(norm(x, f"{layer}.post_attention_layernorm"), f"{layer}.mlp") for x in xs]
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return np.stack([head @ norm(x, "model.norm") for x in xs])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits(shape, unit_llama, draw_ids):
    model = unit_llama(seed=9, **shape)
    model.astype(np.float64)
    ids = draw_ids(model, time=13)
    for row, logits in zip(ids, model(ids).data, strict=True):
        expected = reference_logits(model.config, model.state_dict(), row)
        assert np.abs(logits - expected).max() < 1e-12 * np.abs(expected).max()


def test_angles_are_right_to_float32s_last_digits_far_into_a_long_text(unit_llama):
    """The angle is position · θ^(-2i/D)."""
    config = unit_llama(head_dim=8, rope_theta=500000.0).config
    cos, sin = rotary_tables(config, 9990, 9993, np.empty(0, np.float32))
    assert cos.shape == sin.shape == (3, 1, 4)
    assert cos.dtype == sin.dtype == np.float32
    for t, i in np.ndindex(3, 4):
        angle = (9990 + t) * 500000.0 ** (-2 * i / 8)
        assert cos[t, 0, i] == pytest.approx(math.cos(angle), abs=1e-7)
        assert sin[t, 0, i] == pytest.approx(math.sin(angle), abs=1e-7)
