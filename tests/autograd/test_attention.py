"""Causal attention: equal to its composition from plain ops, and blind to the future in every bit."""

import numpy as np
import pytest

from minilora.autograd import Tensor, gradients, ops
from minilora.autograd.ops import attention

PRECISIONS = [(np.float64, 1e-12), (np.float32, 1e-5)]
# Batch, query heads, key heads, queries, keys, features.
SIZES = {
    "one head": (1, 1, 1, 6, 6, 4),
    "grouped heads": (2, 6, 2, 7, 7, 3),
    "one key head": (2, 4, 1, 5, 5, 2),
    "cached past": (2, 4, 2, 5, 12, 4),
    "one query": (2, 4, 2, 1, 9, 4),
    "three blocks": (1, 2, 2, 130, 130, 5),
    "three blocks, grouped, cached past": (1, 4, 2, 130, 137, 3),
}


def plain_attention(q, k, v):
    """softmax(q kᵀ / √D) v over what a place may see, from plain ops."""
    (_, H, T, D), (_, G, S, _) = q.shape, k.shape
    head = np.repeat(np.arange(G), H // G)
    scores = q @ k[:, head].transpose(0, 1, 3, 2) / D**0.5
    future = np.arange(S) > np.arange(S - T, S)[:, None]
    scores = ops.where(future, -np.inf, scores)
    e = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)) @ v[:, head]


def draw(size, dtype=np.float64, seed=0):
    B, H, G, T, S, D = size
    rng = np.random.default_rng(seed)
    shapes = [(B, H, T, D), (B, G, S, D), (B, G, S, D)]
    return [Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("block", [1, 3, attention.BLOCK])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_equals_its_composition(monkeypatch, error, size, block, dtype, tolerance):
    monkeypatch.setattr(attention, "BLOCK", block)
    inputs = draw(size, dtype)
    found, expected = ops.causal_attention(*inputs), plain_attention(*inputs)
    assert found.dtype == expected.dtype == dtype
    assert found.shape == expected.shape
    assert error(found.data, expected.data) < tolerance
    cotangent = np.random.default_rng(1).standard_normal(found.shape).astype(dtype)
    for ours, theirs in zip(gradients(found, inputs, cotangent), gradients(expected, inputs, cotangent), strict=True):
        assert ours.dtype == dtype
        assert error(ours, theirs) < tolerance


def test_the_blocks_are_smaller_than_the_sizes_tried():
    assert 2 * attention.BLOCK < 130


@pytest.mark.parametrize("place", [1, 4, 63, 64, 65, 129])
@pytest.mark.parametrize("past", [0, 7])
def test_a_change_at_a_place_leaves_earlier_outputs_bit_identical(place, past):
    q, k, v = draw((1, 4, 2, 130, 130 + past, 4))
    before = ops.causal_attention(q, k, v).data
    rng = np.random.default_rng(2)
    k, v = Tensor(k.data.copy()), Tensor(v.data.copy())
    for x in (k.data, v.data):
        x[:, :, past + place :] = 5 * rng.standard_normal(x[:, :, past + place :].shape)
    after = ops.causal_attention(q, k, v).data
    assert np.array_equal(before[:, :, :place], after[:, :, :place])
    assert (before[:, :, place] != after[:, :, place]).all()  # the place itself does see the change


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_future_weighs_exactly_nothing(dtype):
    """A mask of -1e9 instead of -inf would leak here: keys that score 1e12 in the future, values of 1e30."""
    q, k, v = draw((1, 2, 1, 70, 70, 4), dtype)
    expected = ops.causal_attention(q, k, v).data[:, :, :5]
    k, v = Tensor(k.data.copy()), Tensor(v.data.copy())
    k.data[:, :, 5:] *= 1e12
    v.data[:, :, 5:] *= 1e30
    assert np.array_equal(ops.causal_attention(q, k, v).data[:, :, :5], expected)


def test_no_gradient_comes_from_the_past_to_the_future():
    q, k, v = draw((2, 4, 2, 70, 75, 3))
    cotangent = np.random.default_rng(3).standard_normal(q.shape)
    cotangent[:, :, 40:] = 0  # as if nothing after place 40 mattered
    dq, dk, dv = gradients(ops.causal_attention(q, k, v), [q, k, v], cotangent)
    for g, seen in ((dq, 40), (dk, 45), (dv, 45)):
        assert (g[:, :, seen:] == 0).all()
        assert (g[:, :, :seen] != 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_scores_give_no_nan(dtype):
    q, k, v = (Tensor(100 * x.data, requires_grad=True) for x in draw((1, 2, 1, 70, 70, 8), dtype))
    with np.errstate(over="raise", invalid="raise"):
        output = ops.causal_attention(q, k, v)
        pulled = gradients(output, [q, k, v], np.ones_like(output.data))
    assert np.abs(q.data @ k.data.swapaxes(2, 3)).max() > 1e4
    for x in (output.data, *pulled):
        assert np.isfinite(x).all()


def test_the_first_place_sees_itself_alone_and_weights_sum_to_one():
    q, k, v = draw((2, 4, 2, 9, 9, 3))
    output = ops.causal_attention(q, k, v).data
    np.testing.assert_allclose(output[:, :, 0], v.data[:, [0, 0, 1, 1], 0], rtol=1e-14)
    ones = ops.causal_attention(q, k, Tensor(np.ones_like(v.data))).data
    np.testing.assert_allclose(ones, 1, rtol=1e-14)


def test_joining_the_heads_afterwards_copies_nothing():
    """Of the output and of dq alike, whether q lies as (B, H, T, D) or, as in a model, (B, T, H, D)."""
    B, H, T, D = 2, 4, 9, 3
    q, k, v = draw((B, H, 2, T, T, D))
    as_in_a_model = Tensor(q.data.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), requires_grad=True)
    for queries in (q, as_in_a_model):
        output = ops.causal_attention(queries, k, v)
        (dq,) = output.rules(np.ones_like(queries.data))[:1]
        for found in (output.data, dq):
            assert np.shares_memory(found, found.transpose(0, 2, 1, 3).reshape(B, T, H * D))


@pytest.mark.parametrize("step", [1, 4, 66])
def test_queries_over_a_cached_past_give_the_last_rows(error, step):
    q, k, v = draw((1, 4, 2, 140, 140, 4))
    whole = ops.causal_attention(q, k, v).data
    last = ops.causal_attention(q[:, :, -step:], k, v).data
    assert error(last, whole[:, :, -step:]) < 1e-14


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 4, 4)),  # fewer keys than values
        ((1, 2, 3, 4), (1, 2, 4, 4), (1, 2, 3, 4)),  # more keys than values
        ((1, 2, 3, 4), (1, 2, 3, 6), (1, 2, 3, 6)),  # more features
        ((1, 2, 3, 4), (1, 2, 3, 2), (1, 2, 3, 2)),  # fewer features
        ((2, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)),  # a smaller batch
        ((1, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4)),  # a larger batch
        ((1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)),  # heads that do not divide
        ((1, 2, 4, 4), (1, 2, 3, 4), (1, 2, 3, 4)),  # more queries than keys
    ],
)
def test_shapes_that_do_not_fit_are_refused(q, k, v):
    with pytest.raises(ValueError, match="attention expects q"):
        ops.causal_attention(*(Tensor(np.zeros(shape)) for shape in (q, k, v)))
