"""AdamW over one flat buffer is AdamW, parameter by parameter, as the paper writes it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.autograd import Tensor
from minilora.training import AdamW

EXACT = 1e-11  # relative, in float64

shapes = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5)
betas = st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.9, 0.99, 0.999]))


def parameters(shapes, rng, dtype=np.float64):
    return [(f"p{i}", Tensor(rng.standard_normal(shape).astype(dtype), True)) for i, shape in enumerate(shapes)]


class Textbook:
    """Loshchilov & Hutter 2019, algorithm 2 with the schedule inside lr, for one parameter."""

    def __init__(self, theta, decay, betas, eps):
        self.theta, self.decay, (self.b1, self.b2), self.eps = theta.copy(), decay, betas, eps
        self.m, self.v, self.t = np.zeros_like(theta), np.zeros_like(theta), 0

    def step(self, g, lr):
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        m_hat = self.m / (1 - self.b1**self.t)
        v_hat = self.v / (1 - self.b2**self.t)
        self.theta = self.theta - lr * m_hat / (np.sqrt(v_hat) + self.eps) - lr * self.decay * self.theta


def give(named, grads):
    for (_, p), g in zip(named, grads, strict=True):
        p.grad += g


@settings(deadline=None)
@given(
    shapes=shapes,
    betas=betas,
    decay=st.sampled_from([0.0, 0.1, 1.0]),
    eps=st.sampled_from([1e-8, 0.1]),
    max_norm=st.sampled_from([0.0, 0.5, 1e6]),
    lrs=st.lists(st.floats(1e-3, 0.5), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_the_textbook_step_for_each_parameter(shapes, betas, decay, eps, max_norm, lrs, seed):
    rng = np.random.default_rng(seed)
    named = parameters(shapes, rng)
    books = [Textbook(p.data, decay if p.ndim >= 2 else 0.0, betas, eps) for _, p in named]
    optimizer = AdamW(named, decay, betas, eps)
    for lr in lrs:
        grads = [rng.standard_normal(shape) for shape in shapes]
        give(named, grads)
        length = math.sqrt(sum((g**2).sum() for g in grads))
        assert optimizer.clip(max_norm) == pytest.approx(length, rel=EXACT)
        shrink = max_norm / length if length > max_norm > 0 else 1.0
        for book, g in zip(books, grads, strict=True):
            book.step(g * shrink, lr)
        optimizer.step(lr)
        for (_, p), book in zip(named, books, strict=True):
            np.testing.assert_allclose(p.data, book.theta, rtol=EXACT, atol=EXACT)
            assert not p.grad.any()


@given(shapes, st.integers(0, 2**32 - 1))
def test_parameters_become_views_and_keep_their_values(shapes, seed):
    named = parameters(shapes, np.random.default_rng(seed), np.float32)
    before = [p.data.copy() for _, p in named]
    optimizer = AdamW(named)
    for (_, p), old in zip(named, before, strict=True):
        np.testing.assert_array_equal(p.data, old)
        assert np.shares_memory(p.data, optimizer.data)
        assert np.shares_memory(p.grad, optimizer.grad)
    for buffer in (optimizer.data, optimizer.grad, optimizer.m, optimizer.v):
        assert (buffer.shape, buffer.dtype) == ((sum(p.size for _, p in named),), np.float32)
    optimizer.data[...] = 7
    assert all((p.data == 7).all() for _, p in named)
    give(named, [1.0] * len(named))
    assert (optimizer.grad == 1).all()


def test_matrices_decay_and_gains_do_not():
    named = [("gain", Tensor(np.full(3, 2.0), True)), ("matrix", Tensor(np.full((2, 2), 2.0), True))]
    optimizer = AdamW(named, weight_decay=0.25)
    optimizer.step(0.5)  # the gradient is zero: all that moves is what decays
    assert (named[0][1].data == 2).all()
    assert (named[1][1].data == 2 * (1 - 0.5 * 0.25)).all()
    assert optimizer.layout == [("matrix", (2, 2)), ("gain", (3,))]


def test_decay_is_decoupled_from_the_gradient():
    """The decay is no part of the gradient: the moments know nothing of it."""
    rng = np.random.default_rng(0)
    runs = [parameters([(3, 4)], np.random.default_rng(1)) for _ in range(2)]
    plain, decayed = AdamW(runs[0], 0.0), AdamW(runs[1], 0.5)
    for _ in range(3):
        g = rng.standard_normal((3, 4))
        for named, optimizer in zip(runs, (plain, decayed), strict=True):
            give(named, [g])
            optimizer.step(0.1)
    np.testing.assert_array_equal(plain.m, decayed.m)
    np.testing.assert_array_equal(plain.v, decayed.v)
    assert np.abs(plain.data - decayed.data).min() > 1e-3


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_first_step_has_length_lr_whatever_the_gradient(scale):
    """What bias correction is for: m̂/√v̂ is the gradient's sign from the first step on."""
    named = parameters([(5,)], np.random.default_rng(0))
    before = named[0][1].data.copy()
    g = np.array([1.0, -2.0, 3.0, -0.5, 0.25]) * scale
    optimizer = AdamW(named)
    give(named, [g])
    optimizer.step(0.125)
    np.testing.assert_allclose(named[0][1].data - before, -0.125 * np.sign(g), rtol=1e-4)


@pytest.mark.parametrize(("max_norm", "length"), [(0.0, 5.0), (5.0, 5.0), (10.0, 5.0), (2.5, 2.5)])
def test_clipping_shortens_what_is_too_long_and_nothing_else(max_norm, length):
    named = [("a", Tensor(np.zeros(1), True)), ("b", Tensor(np.zeros((1, 1)), True))]
    optimizer = AdamW(named)
    give(named, [np.array([3.0]), np.array([[4.0]])])
    assert optimizer.clip(max_norm) == 5
    np.testing.assert_allclose([named[0][1].grad.item(), named[1][1].grad.item()], [3 * length / 5, 4 * length / 5])


def test_without_parameters_there_is_nothing_to_train():
    with pytest.raises(ValueError, match="found none with requires_grad=True"):
        AdamW([])


def test_a_gradient_set_anew_counts_all_the_same():
    """`p.grad = None` is how PyTorch's users begin a step."""
    rng = np.random.default_rng(0)
    p, same = (Tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2))
    optimizer, reference = AdamW([("p", p)]), AdamW([("p", same)])
    for _ in range(3):
        g = rng.standard_normal((2, 3))
        p.grad, same.grad[...] = g, g
        optimizer.step(0.1)
        reference.step(0.1)
    np.testing.assert_array_equal(p.data, same.data)
    p.grad = None
    assert optimizer.clip(1.0) == 0
    assert np.shares_memory(p.grad, optimizer.grad)
    p.grad[...] = 1
    optimizer.zero_grad()
    assert (p.grad == 0).all()


def test_a_parameter_that_was_replaced_is_not_quietly_left_behind():
    p = Tensor(np.ones((2, 3)), requires_grad=True)
    first, _ = AdamW([("p", p)]), AdamW([("p", p)])
    with pytest.raises(RuntimeError, match="p was replaced after this optimizer was made; make a new optimizer"):
        first.step(0.1)


def test_gradients_for_parameters_that_were_replaced_are_refused():
    p = Tensor(np.ones(3), requires_grad=True)
    optimizer = AdamW([("p", p)])
    p.data = p.data.astype(np.float32)
    with pytest.raises(RuntimeError, match="p was replaced after this optimizer was made"):
        optimizer.add([np.ones(3)])
