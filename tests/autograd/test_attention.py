"""Causal attention over several blocks of rows: exactly causal, finite, and with a memory layout that avoids copies."""

import numpy as np
import pytest

from minilora.autograd import Tensor, gradients, ops


def draw(B, H, G, T, S, D, dtype=np.float64):
    """Queries, keys and values of unit scale."""
    rng = np.random.default_rng(0)
    shapes = [(B, H, T, D), (B, G, S, D), (B, G, S, D)]
    return [Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("past", [0, 7])
def test_a_change_at_a_place_leaves_earlier_outputs_bit_identical(past):
    q, k, v = draw(1, 4, 2, 130, 130 + past, 4)
    before, rng = ops.causal_attention(q, k, v).data, np.random.default_rng(2)
    for place in (1, 63, 64, 129):  # at the block boundaries
        changed = k.data.copy(), v.data.copy()
        for x in changed:
            x[:, :, past + place :] = 5 * rng.standard_normal(x[:, :, past + place :].shape)
        after = ops.causal_attention(q, *changed).data
        assert np.array_equal(before[:, :, :place], after[:, :, :place])
        assert (before[:, :, place] != after[:, :, place]).all()  # the position itself does see the change


def test_the_future_weighs_exactly_nothing():
    """A mask of -1e9 instead of -inf would leak here: future keys are scaled by 1e12, and values by 1e30."""
    q, k, v = draw(1, 2, 1, 70, 70, 4, np.float32)
    expected = ops.causal_attention(q, k, v).data[:, :, :5]
    k.data[:, :, 5:] *= 1e12
    v.data[:, :, 5:] *= 1e30
    assert np.array_equal(ops.causal_attention(q, k, v).data[:, :, :5], expected)


def test_huge_scores_give_no_nan():
    q, k, v = (Tensor(100 * x.data, requires_grad=True) for x in draw(1, 2, 1, 70, 70, 8, np.float32))
    with np.errstate(over="raise", invalid="raise"):
        output = ops.causal_attention(q, k, v)
        pulled = gradients(output, [q, k, v], np.ones_like(output.data))
    assert np.abs(q.data @ k.data.swapaxes(2, 3)).max() > 1e4
    for x in (output.data, *pulled):
        assert np.isfinite(x).all()


def test_joining_the_heads_afterwards_copies_nothing():
    """For the output and for dq, with q stored as (B, H, T, D) or, as in a model, as (B, T, H, D)."""
    q, k, v = draw(2, 4, 2, 9, 9, 3)
    as_in_a_model = Tensor(q.data.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), requires_grad=True)
    for queries in (q, as_in_a_model):
        output = ops.causal_attention(queries, k, v)
        (dq,) = output.rules(np.ones_like(queries.data))[:1]
        for found in (output.data, dq):
            assert np.shares_memory(found, found.transpose(0, 2, 1, 3).reshape(2, 9, 12))


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
    with pytest.raises(ValueError, match=r"causal_attention\(\) expects q"):
        ops.causal_attention(*map(np.zeros, (q, k, v)))
