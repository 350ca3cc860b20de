"""AdamW on one flat buffer equals the paper's AdamW for each parameter."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.autograd import Tensor
from minilora.training import SGD, AdamW, ParameterGroup
from tests.training.textbook import Textbook

EXACT = 1e-11  # relative, in float64

shapes = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5)
betas = st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.9, 0.99, 0.999]))


def parameters(shapes, rng, dtype=np.float64):
    return [(f"p{i}", Tensor(rng.standard_normal(shape).astype(dtype), True)) for i, shape in enumerate(shapes)]


def give(named, grads):
    for (_, p), g in zip(named, grads, strict=True):
        p.grad = g if p.grad is None else p.grad + g


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
    """With two groups: the first two parameters have their own weight decay and learning rate."""
    rng = np.random.default_rng(seed)
    named = parameters(shapes, rng)
    groups = [ParameterGroup(named[:2], decay, 3.0), ParameterGroup(named[2:])]
    rules = [(decay, 3.0)] * 2 + [(0.0, 1.0)] * len(named)
    books = [Textbook(p.data, decay, betas, eps) for (_, p), (decay, _) in zip(named, rules, strict=False)]
    optimizer = AdamW(groups, betas=betas, eps=eps)
    for lr in lrs:
        optimizer.zero_grad()
        grads = [rng.standard_normal(shape) for shape in shapes]
        give(named, grads)
        length = math.sqrt(sum((g**2).sum() for g in grads))
        assert optimizer.clip(max_norm) == pytest.approx(length, rel=EXACT)
        shrink = max_norm / length if length > max_norm > 0 else 1.0
        for book, g, (_, scale) in zip(books, grads, rules, strict=False):
            book.step(g * shrink, scale * lr)
        optimizer.step(lr)
        for (_, p), book, g in zip(named, books, grads, strict=True):
            np.testing.assert_allclose(p.data, book.theta, rtol=EXACT, atol=EXACT)
            np.testing.assert_allclose(p.grad, g * shrink, rtol=EXACT, atol=EXACT)  # available after the step


def test_named_parameters_are_one_group_that_decays():
    named = parameters([(2, 3), (4,)], np.random.default_rng(0))
    books = [Textbook(p.data, 0.2, (0.9, 0.999), 1e-8) for _, p in named]
    optimizer = AdamW(named, weight_decay=0.2)
    for (_, p), book in zip(named, books, strict=True):
        p.grad = p.data.copy()
        book.step(p.data.copy(), 0.1)
    optimizer.step(0.1)
    for (_, p), book in zip(named, books, strict=True):
        np.testing.assert_allclose(p.data, book.theta, rtol=EXACT)


def test_gradient_descent_goes_against_the_gradient():
    named = parameters([(2, 3), (4,)], np.random.default_rng(0))
    before, grads = [p.data.copy() for _, p in named], [p.data**2 for _, p in named]
    optimizer = SGD([ParameterGroup(named[:1], 0.5), ParameterGroup(named[1:], 0.0, 2.0)])
    give(named, grads)
    optimizer.step(0.1)
    np.testing.assert_allclose(named[0][1].data, before[0] * (1 - 0.1 * 0.5) - 0.1 * grads[0], rtol=EXACT)
    np.testing.assert_allclose(named[1][1].data, before[1] - 0.2 * grads[1], rtol=EXACT)


def test_forgetting_zeroes_the_state_of_one_parameter_alone():
    named = parameters([(2, 3), (4,), (2,)], np.random.default_rng(0))
    optimizer = AdamW(named)
    give(named, [np.ones(p.shape) for _, p in named])
    optimizer.step(0.1)
    optimizer.forget(named[1][1])
    for array in optimizer.state.values():
        assert [bool(part.any()) for part in np.split(array, [6, 10])] == [True, False, True]


def test_parameters_become_views_and_keep_their_values():
    named = parameters([(3,), (2, 3), (1,), (2, 1)], np.random.default_rng(0), np.float32)
    before = [p.data.copy() for _, p in named]
    optimizer = AdamW(named)
    for (_, p), old in zip(named, before, strict=True):
        np.testing.assert_array_equal(p.data, old)
        assert np.shares_memory(p.data, optimizer.data)
        assert p.grad is None
    optimizer.add([old for old in before])
    for (_, p), old in zip(named, before, strict=True):
        np.testing.assert_array_equal(p.grad, old)
        assert np.shares_memory(p.grad, optimizer.grad)
    for buffer in (optimizer.data, optimizer.grad, optimizer.m, optimizer.v):
        assert (buffer.shape, buffer.dtype) == ((12,), np.float32)
    assert optimizer.layout == [("p0", (3,)), ("p1", (2, 3)), ("p2", (1,)), ("p3", (2, 1))]


def test_without_parameters_there_is_nothing_to_train():
    with pytest.raises(ValueError, match="no trainable parameters: none has requires_grad=True"):
        AdamW([])


def test_a_gradient_set_anew_counts_all_the_same():
    """It does not matter whether a gradient is assigned to `p.grad` or added to the buffer."""
    rng = np.random.default_rng(0)
    p, same = (Tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2))
    optimizer, reference = AdamW([("p", p)]), AdamW([("p", same)])
    for _ in range(3):
        p.grad = rng.standard_normal((2, 3))
        reference.zero_grad()
        reference.add([p.grad])
        optimizer.step(0.1)
        reference.step(0.1)
    np.testing.assert_array_equal(p.data, same.data)
    p.grad = None
    assert optimizer.clip(1.0) == 0
    assert p.grad is None
    p.grad = np.ones((2, 3))
    optimizer.zero_grad()
    assert p.grad is None


moves = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6)


@settings(deadline=None)
@given(moves=moves, decay=st.sampled_from([0.0, 0.3]), max_norm=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 99))
def test_a_parameter_without_a_gradient_is_skipped(moves, decay, max_norm, seed):
    """As in PyTorch: no update, no decay, and its moments and its number of updates stay the same."""
    rng = np.random.default_rng(seed)
    named = parameters([(2, 3), (4,), (1,), (2, 2)], rng)
    books = [Textbook(p.data, decay, (0.9, 0.99), 1e-8) for _, p in named]
    optimizer = AdamW(named, weight_decay=decay, betas=(0.9, 0.99))
    for moving in moves:
        optimizer.zero_grad()
        grads = [rng.standard_normal(p.shape) if moves else None for (_, p), moves in zip(named, moving, strict=True)]
        for (_, p), g in zip(named, grads, strict=True):
            p.grad = None if g is None else g.copy()
        length = math.sqrt(sum((g**2).sum() for g in grads if g is not None))
        assert optimizer.clip(max_norm) == pytest.approx(length, rel=EXACT)
        shrink = max_norm / length if length > max_norm > 0 else 1.0
        optimizer.step(0.1)
        for (_, p), book, g in zip(named, books, grads, strict=True):
            if g is not None:
                book.step(g * shrink, 0.1)
            np.testing.assert_allclose(p.data, book.theta, rtol=EXACT, atol=EXACT)
    assert optimizer.updates == [sum(column) for column in zip(*moves, strict=True)]
    assert optimizer.steps == len(moves)


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_a_frozen_parameter_is_not_changed(kind):
    rng = np.random.default_rng(0)
    W, A = Tensor(rng.standard_normal((3, 3))), Tensor(rng.standard_normal((3, 3)), requires_grad=True)
    before = W.data.copy(), A.data.copy()
    optimizer = kind([ParameterGroup([("W", W), ("A", A)], weight_decay=0.5)])
    for _ in range(2):
        optimizer.zero_grad()
        ((W + A) * (W + A)).mean().backward()
        optimizer.step(0.1)
    assert W.data.tobytes() == before[0].tobytes()
    assert not np.isclose(A.data, before[1]).any()


def test_parameters_of_two_dtypes_are_refused():
    single, double = Tensor(np.ones(2, np.float32), True), Tensor(np.ones(2), True)
    message = "expected parameters of one dtype, got a with float32 and b with float64; convert the model with astype"
    with pytest.raises(ValueError, match=message):
        AdamW([("a", single), ("b", double)])
    assert (single.dtype, double.dtype) == (np.float32, np.float64)


def test_a_parameter_listed_twice_is_refused():
    p = Tensor(np.ones(2), True)
    with pytest.raises(ValueError, match="expected each parameter once, got one under two names, a and b"):
        AdamW([ParameterGroup([("a", p)]), ParameterGroup([("b", p)])])


def test_a_parameter_that_was_replaced_is_not_quietly_left_behind():
    p = Tensor(np.ones((2, 3)), requires_grad=True)
    first, _ = AdamW([("p", p)]), AdamW([("p", p)])
    for call in (lambda: first.step(0.1), lambda: first.add([np.ones((2, 3))])):
        with pytest.raises(
            RuntimeError, match="p was replaced after this optimizer was created; create a new optimizer"
        ):
            call()
