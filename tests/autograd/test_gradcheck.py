"""The checker checked: it must fail on rules with the mistakes that people make, and pass on right ones.

Each mistake is planted as an op of its own. Several are from published NumPy GPTs, whose tests did not notice.
"""

import numpy as np
import pytest

from minilora.autograd import OPS, Tensor, gradcheck, gradients, no_grad, ops

CAUGHT = 1e-6  # the relative error of a mistake is above this; that of right rules stays below 1e-7
IDS = np.array([2, 0, 2, 2, 1])  # with a repeat


def swapped(x):
    return np.swapaxes(x, -1, -2)


def matmul(left=lambda g, x, y: g @ swapped(y), right=lambda g, x, y: swapped(x) @ g):
    return lambda x, y: (x @ y, (lambda g: left(g, x, y), lambda g: right(g, x, y)))


def table(pull):
    return lambda w: (w[IDS], (lambda g: pull(g, np.zeros_like(w)),))


def assign(g, gw):
    gw[IDS] = g
    return gw


def accumulate(g, gw):
    np.add.at(gw, IDS, g)
    return gw


def scores(pull_key):
    """q kᵀ for q and k of (heads, places, features)."""
    return lambda q, k: (q @ swapped(k), (lambda g: g @ k, lambda g: pull_key(g, q)))


def key_transposed_then_reshaped(g, q):
    return (swapped(q) @ g).reshape(q.shape)  # (H, D, T) -> (H, T, D): the right numbers in the wrong places


def softmax(pull):
    def function(x):
        p = np.exp(x - x.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return p, (lambda g: pull(g, p),)

    return function


def gelu(inner, outer):
    """x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), with the constants of its derivative as given."""

    def function(x):
        t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
        return x / 2 * (1 + t), (lambda g: g * ((1 + t) / 2 + x / 2 * (1 - t * t) * outer * (1 + inner * x**2)),)

    return function


SQUARE, TALL, HEADS, TABLE, ROW = (4, 4), (3, 5), (2, 4, 4), (4, 3), (6,)
RIGHT = {
    "product": (lambda x, y: (x * y, (lambda g: g * y, lambda g: g * x)), [TALL, TALL]),
    "broadcast": (lambda x, y: (x + y, (lambda g: g, lambda g: g)), [TALL, (5,)]),
    "matmul": (matmul(), [SQUARE, SQUARE]),
    "table": (table(accumulate), [TABLE]),
    "scores": (scores(lambda g, q: swapped(g) @ q), [HEADS, HEADS]),
    "softmax": (softmax(lambda g, p: p * (g - (g * p).sum(axis=-1, keepdims=True))), [TALL]),
    "gelu": (gelu(3 * 0.044715, np.sqrt(2 / np.pi)), [ROW]),
}
WRONG = {
    "0.1 % too large": (lambda x: (x * x, (lambda g: 1.001 * g * 2 * x,)), [TALL]),
    "0.1 % too large in one of two inputs": (
        lambda x, y: (x * y, (lambda g: g * y, lambda g: 1.001 * g * x)),
        [TALL, TALL],
    ),
    "0.1 % too large in one entry": (
        lambda x: (x + 0, (lambda g: g * np.where(np.arange(x.size) == 7, 1.001, 1.0).reshape(x.shape),)),
        [TALL],
    ),
    "a factor 2": (lambda x: (x * x, (lambda g: g * x,)), [TALL]),
    "a sign": (lambda x, y: (x - y, (lambda g: g, lambda g: g)), [TALL, TALL]),
    "rules swapped": (lambda x, y: (x * y, (lambda g: g * x, lambda g: g * y)), [TALL, TALL]),
    "a rule that forgets g": (lambda x: (x * x, (lambda g: 2 * x,)), [TALL]),
    "a rule that is zero": (lambda x: (x * x, (lambda g: 0 * g,)), [TALL]),
    "a rule that is not a number": (lambda x: (x * x, (lambda g: np.nan * g,)), [TALL]),
    "a transposed square": (lambda x: (2 * x, (lambda g: 2 * g.T,)), [SQUARE]),
    "an identity reversed": (lambda x: (1 * x, (lambda g: g[::-1],)), [ROW]),
    "matmul, left not transposed": (matmul(left=lambda g, x, y: g @ y), [SQUARE, SQUARE]),
    "matmul, right transposed": (matmul(right=lambda g, x, y: swapped(swapped(x) @ g)), [SQUARE, SQUARE]),
    "repeated ids dropped": (table(assign), [TABLE]),
    "key transposed, then reshaped": (scores(key_transposed_then_reshaped), [HEADS, HEADS]),
    "softmax without its sum": (softmax(lambda g, p: p * (1 - p) * g), [TALL]),
    "a broadcast averaged, not summed": (
        lambda x, y: (x + y, (lambda g: g, lambda g: g.mean(axis=0))),
        [TALL, (5,)],
    ),
    "gelu with 0.134": (gelu(0.134, np.sqrt(2 / np.pi)), [ROW]),
    "gelu with 0.8": (gelu(3 * 0.044715, 0.8), [ROW]),
}


def worst_error(plant, function, shapes):
    function.__name__ = "planted"
    rng = np.random.default_rng(0)
    return gradcheck(plant(function), [rng.standard_normal(shape) for shape in shapes], rng)


@pytest.mark.parametrize("name", RIGHT)
def test_right_rules_pass(plant, name):
    assert worst_error(plant, *RIGHT[name]) < 1e-9


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rules_fail(plant, name):
    assert not worst_error(plant, *WRONG[name]) <= CAUGHT  # this way round, nan fails too


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_the_scale_of_a_function_hides_nothing(plant, scale):
    def right(x):
        return scale * x * x, (lambda g: scale * g * 2 * x,)

    def wrong(x):
        return scale * x * x, (lambda g: scale * g * 2.002 * x,)

    assert worst_error(plant, right, [TALL]) < 1e-9
    assert worst_error(plant, wrong, [TALL]) > CAUGHT


def test_a_large_value_hides_nothing(plant):
    def right(x):
        return 1e4 + x * x, (lambda g: g * 2 * x,)

    def wrong(x):
        return 1e4 + x * x, (lambda g: g * 2.002 * x,)

    assert worst_error(plant, right, [TALL]) < 1e-7
    assert worst_error(plant, wrong, [TALL]) > CAUGHT


@pytest.mark.parametrize(("options", "directions"), [({}, 4), ({"directions": 1}, 1)])
def test_each_direction_takes_four_points_for_each_input(options, directions):
    calls = []
    gradcheck(lambda x, y: calls.append(1) or x * y, [np.ones(3)] * 2, np.random.default_rng(0), **options)
    assert len(calls) == 1 + 2 * directions * 4


def test_nothing_to_check_passes():
    assert gradcheck(ops.exp, [np.ones((0, 3))], np.random.default_rng(0)) == 0
    assert gradcheck(ops.exp, [np.ones(3)], np.random.default_rng(0), directions=0) == 0


def test_a_gradient_that_is_zero_passes():
    """The sum of a softmax is 1 whatever the entries: claimed and measured slope are rounding alone."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        assert gradcheck(lambda x: ops.softmax(x).sum(axis=-1), [rng.standard_normal((5, 4))], rng) < 1e-7


def test_a_plain_sum_would_miss_what_a_random_cotangent_sees(plant):
    """Why gradcheck draws a cotangent: for .sum() every gradient here is 1, transposed or not."""
    transposed = plant(lambda x: (1 * x, (lambda g: g.T,)))
    x = Tensor(np.random.default_rng(0).standard_normal(SQUARE), requires_grad=True)
    assert gradients(transposed(x).sum(), [x])[0].tolist() == np.ones(SQUARE).tolist()  # and this is right
    assert gradcheck(transposed, [x.data], np.random.default_rng(0)) > CAUGHT


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.complex128])
def test_anything_but_float64_is_refused(dtype):
    arrays = [np.ones(3), np.ones(3, dtype)]
    with pytest.raises(TypeError, match=f"expects float64 inputs, got {np.dtype(dtype)}"):
        gradcheck(ops.mul, arrays, np.random.default_rng(0))


def test_an_untracked_function_is_refused():
    with pytest.raises(ValueError, match="requires_grad"):
        gradcheck(no_grad()(ops.exp), [np.ones(3)], np.random.default_rng(0))


def test_inputs_are_left_as_they_were():
    x = np.random.default_rng(0).standard_normal(TALL)
    before = x.copy()
    x.flags.writeable = False
    assert gradcheck(lambda x: x * x, [x], np.random.default_rng(0)) < 1e-9
    assert np.array_equal(x, before)


def test_planted_ops_never_reach_the_real_table(plant):
    plant(RIGHT["product"][0])
    assert "planted" not in OPS
    assert "<lambda>" not in OPS
