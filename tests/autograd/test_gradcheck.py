"""gradcheck itself: it must fail on rules with common mistakes and pass on correct ones.

Each mistake is registered as a separate op. Several are from published NumPy GPTs with tests that did not detect them.
"""

import numpy as np
import pytest

from minilora.autograd import gradcheck, ops

CAUGHT = 1e-6  # a mistake has a relative error above this; correct rules stay below 1e-7
IDS = np.array([2, 0, 2, 2, 1])  # with a repeat
SQUARE, TALL, HEADS, TABLE, ROW = (4, 4), (3, 5), (2, 4, 4), (4, 3), (6,)


def swapped(x):
    return np.swapaxes(x, -1, -2)


def square(factor, scale=1, shift=0):
    """scale · x² + shift, with its derivative multiplied by `factor`."""
    return lambda x: (scale * x * x + shift, (lambda g: scale * factor * g * 2 * x,))


def product(factor):
    return lambda x, y: (x * y, (lambda g: g * y, lambda g: factor * g * x))


def table(pull):
    return lambda w: (w[IDS], (lambda g: pull(g, np.zeros_like(w)),))


def assign(g, gw):
    gw[IDS] = g
    return gw


def accumulate(g, gw):
    np.add.at(gw, IDS, g)
    return gw


def scores(pull_key):
    """q kᵀ for q and k of shape (heads, positions, features)."""
    return lambda q, k: (q @ swapped(k), (lambda g: g @ k, lambda g: pull_key(g, q)))


def softmax(pull):
    def function(x):
        p = np.exp(x - x.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return p, (lambda g: pull(g, p),)

    return function


def gelu(inner):
    """x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), with `inner` as a factor in its derivative (correct: 3 · 0.044715)."""

    def function(x):
        t, outer = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)), np.sqrt(2 / np.pi)
        return x / 2 * (1 + t), (lambda g: g * ((1 + t) / 2 + x / 2 * (1 - t * t) * outer * (1 + inner * x**2)),)

    return function


def one_entry_larger(g):
    return g * np.where(np.arange(g.size) == 7, 1.001, 1.0).reshape(g.shape)


PAIRS = {  # correct rules, wrong rules, and the shapes of the inputs
    "0.1 % too large": (square(1), square(1.001), [TALL]),
    "0.1 % too large in one of two inputs": (product(1), product(1.001), [TALL, TALL]),
    "0.1 % too large in one entry": (square(1), lambda x: (x * x, (lambda g: one_entry_larger(2 * g * x),)), [TALL]),
    "0.1 % too large, of a tiny function": (square(1, 1e-12), square(1.001, 1e-12), [TALL]),
    "0.1 % too large, of a huge function": (square(1, 1e6), square(1.001, 1e6), [TALL]),
    "a rule that is not a number": (square(1), square(np.nan), [TALL]),
    "a transposed square": (lambda x: (2 * x, (lambda g: 2 * g,)), lambda x: (2 * x, (lambda g: 2 * g.T,)), [SQUARE]),
    "repeated ids dropped": (table(accumulate), table(assign), [TABLE]),
    "key transposed, then reshaped": (  # (H, D, T) -> (H, T, D): the right values in the wrong positions
        scores(lambda g, q: swapped(g) @ q),
        scores(lambda g, q: (swapped(q) @ g).reshape(q.shape)),
        [HEADS, HEADS],
    ),
    "softmax without its sum": (
        softmax(lambda g, p: p * (g - (g * p).sum(axis=-1, keepdims=True))),
        softmax(lambda g, p: p * (1 - p) * g),
        [TALL],
    ),
    "gelu with 0.134": (gelu(3 * 0.044715), gelu(0.134), [ROW]),
}


def worst_error(plant, function, shapes):
    function.__name__ = "planted"
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    for x in arrays:
        x.flags.writeable = False  # gradcheck must not modify its inputs
    return gradcheck(plant(function), arrays, rng)


@pytest.mark.parametrize(("right", "wrong", "shapes"), PAIRS.values(), ids=PAIRS)
def test_right_rules_pass_and_wrong_ones_fail(plant, right, wrong, shapes):
    assert worst_error(plant, right, shapes) < 1e-9
    assert not worst_error(plant, wrong, shapes) <= CAUGHT  # written this way, nan counts as caught


def test_a_large_value_hides_nothing(plant):
    assert worst_error(plant, square(1, shift=1e4), [TALL]) < 1e-7
    assert worst_error(plant, square(1.001, shift=1e4), [TALL]) > CAUGHT


@pytest.mark.parametrize(("options", "directions"), [({}, 4), ({"directions": 1}, 1)])
def test_each_direction_takes_four_points_for_each_input(options, directions):
    calls = []
    gradcheck(lambda x, y: calls.append(1) or x * y, [np.ones(3)] * 2, np.random.default_rng(0), **options)
    assert len(calls) == 1 + 2 * directions * 4


def test_nothing_to_check_passes():
    assert gradcheck(ops.exp, [np.ones((0, 3))], np.random.default_rng(0)) == 0
    assert gradcheck(ops.exp, [np.ones(3)], np.random.default_rng(0), directions=0) == 0


def test_a_gradient_that_is_zero_passes():
    """The sum of a softmax is always 1, so the claimed and the measured slopes are only rounding errors."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        assert gradcheck(lambda x: ops.softmax(x).sum(axis=-1), [rng.standard_normal((5, 4))], rng) < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_anything_but_float64_is_refused(dtype):
    arrays = [np.ones(3), np.ones(3, dtype)]
    with pytest.raises(TypeError, match=rf"gradcheck\(\) expects float64 inputs, got {np.dtype(dtype)}"):
        gradcheck(ops.mul, arrays, np.random.default_rng(0))
