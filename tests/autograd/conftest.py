"""One Hypothesis strategy per op, and the fixtures that the autograd tests share.

Each strategy draws a `Case`: a function of tensors that calls the op once, float64 input arrays of unit scale, and a
NumPy function that computes the expected value. `test_ops.py` checks the same properties of every case. Arguments other
than tensors (ids, masks, angles) are read-only, so that an op that writes to them fails.
"""

from collections import namedtuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilora.autograd import OPS, op, ops
from minilora.autograd.ops import attention

Case = namedtuple("Case", "function arrays expected")
rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
sides = st.integers(1, 4)
leading = st.lists(st.integers(1, 3), max_size=2).map(tuple)


def normal(rng, *shape):
    return np.asarray(rng.standard_normal(shape))


def positive(rng, *shape):
    return np.asarray(rng.uniform(0.5, 2, shape))


def away_from_zero(rng, *shape):
    return np.asarray(positive(rng, *shape) * rng.choice([-1.0, 1.0], shape))


def distinct(rng, *shape):
    return rng.permutation(np.linspace(-1.5, 1.5, int(np.prod(shape)))).reshape(shape)


def constant(array):
    array = np.asarray(array)
    array.flags.writeable = False
    return array


def soft(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def elementwise(function, expected, values=normal, inputs=1, shapes=shapes):
    def case(shape, rng):
        return Case(function, [values(rng, *shape) for _ in range(inputs)], expected)

    return st.builds(case, shapes, rngs)


def binary(function, expected, second=normal, signature="(),()->()"):
    def case(two, rng):
        return Case(function, [normal(rng, *two.input_shapes[0]), second(rng, *two.input_shapes[1])], expected)

    return st.builds(case, hnp.mutually_broadcastable_shapes(signature=signature, max_dims=3, max_side=3), rngs)


@st.composite
def reduction(draw, function, expected, values=normal):
    shape, rng = draw(shapes), draw(rngs)
    axes = st.none() | hnp.valid_tuple_axes(len(shape))
    axis = draw(axes | st.integers(-len(shape), len(shape) - 1) if shape else axes)
    how = {"axis": axis, "keepdims": draw(st.booleans())}
    return Case(lambda x: function(x, **how), [values(rng, *shape)], lambda x: expected(x, **how))


STRATEGIES = {
    "add": binary(ops.add, np.add),
    "div": binary(ops.div, np.divide, second=away_from_zero),
    "exp": elementwise(ops.exp, np.exp),
    "log": elementwise(ops.log, np.log, positive),
    "matmul": binary(ops.matmul, np.matmul, signature="(n,k),(k,m)->(n,m)"),
    "max": reduction(ops.max, np.max, distinct),
    "mean": reduction(ops.mean, np.mean),
    "mul": binary(ops.mul, np.multiply),
    "neg": elementwise(ops.neg, np.negative),
    "relu": elementwise(ops.relu, lambda x: np.where(x > 0, x, 0.0), away_from_zero),
    "sigmoid": elementwise(ops.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "silu": elementwise(ops.silu, lambda x: x / (1 + np.exp(-x))),
    "silu_gate": elementwise(ops.silu_gate, lambda gate, up: gate / (1 + np.exp(-gate)) * up, inputs=2),
    "softmax": elementwise(ops.softmax, soft, shapes=hnp.array_shapes(max_dims=3, max_side=4)),
    "sqrt": elementwise(ops.sqrt, np.sqrt, positive),
    "sub": binary(ops.sub, np.subtract),
    "sum": reduction(ops.sum, np.sum),
    "tanh": elementwise(ops.tanh, np.tanh),
}


def strategy(function):
    """Make a strategy from a function that draws, and register it in STRATEGIES under the function's name."""
    STRATEGIES[function.__name__] = st.composite(function)()


@strategy
def power(draw):
    p, rng = draw(st.sampled_from([-1.5, -1, 0, 0.5, 1, 2, 3])), draw(rngs)
    values = away_from_zero if isinstance(p, int) else positive
    return Case(lambda x: ops.power(x, p), [values(rng, *draw(shapes))], lambda x: x ** float(p))


@strategy
def where(draw):
    three, rng = draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3))[0], draw(rngs)
    mask, x, y = (normal(rng, *shape) for shape in three)
    mask = constant(mask < 0)
    return Case(lambda x, y: ops.where(mask, x, y), [x, y], lambda x, y: np.where(mask, x, y))


@strategy
def reshape(draw):
    shape, rng = draw(shapes), draw(rngs)
    new = draw(st.sampled_from([(-1,), shape[::-1], (1, *shape), (*shape, 1), (1, -1, 1)]))
    return Case(lambda x: ops.reshape(x, new), [normal(rng, *shape)], lambda x: x.reshape(new))


@strategy
def transpose(draw):
    shape, rng = draw(shapes), draw(rngs)
    order = [axis - len(shape) * draw(st.integers(0, 1)) for axis in draw(st.permutations(range(len(shape))))]
    axes = draw(st.sampled_from([None, tuple(order)]))
    return Case(lambda x: ops.transpose(x, axes), [normal(rng, *shape)], lambda x: np.transpose(x, axes))


@strategy
def index(draw):
    shape, rng, length = draw(hnp.array_shapes(max_dims=3, max_side=4)), draw(rngs), draw(sides)
    mixed = [  # for each axis, an integer, a slice, or an index array with repeats
        st.integers(-n, n - 1) | st.slices(n) | hnp.arrays(int, length, elements=st.integers(-n, n - 1)) for n in shape
    ]
    basic = hnp.basic_indices(shape, allow_newaxis=True)  # integers, slices of any step, Ellipsis, None
    key = draw(basic | hnp.integer_array_indices(shape) | hnp.arrays(bool, shape) | st.tuples(*mixed))
    return Case(lambda x: ops.index(x, key), [normal(rng, *shape)], lambda x: x[key])


@strategy
def concatenate(draw):
    shape, rng = draw(hnp.array_shapes(max_dims=3, max_side=3)), draw(rngs)
    i = draw(st.integers(0, len(shape) - 1))
    axis = draw(st.sampled_from([i, i - len(shape)]))
    lengths = draw(st.lists(sides, min_size=1, max_size=3))
    arrays = [normal(rng, *shape[:i], n, *shape[i + 1 :]) for n in lengths]
    return Case(lambda *xs: ops.concatenate(*xs, axis=axis), arrays, lambda *xs: np.concatenate(xs, axis=axis))


@strategy
def linear(draw):
    n_in, n_out, rng = draw(sides), draw(sides), draw(rngs)
    arrays = [normal(rng, *draw(leading), n_in), normal(rng, n_out, n_in)]
    return Case(ops.linear, arrays, lambda x, w: np.einsum("...i,oi->...o", x, w))


@strategy
def lora_linear(draw):
    n_in, n_out, r, rng = draw(sides), draw(sides), draw(sides), draw(rngs)
    scale = draw(st.sampled_from([0.0, 0.5, -2.0]))
    shapes = [(*draw(leading), n_in), (n_out, n_in), (r, n_in), (n_out, r)]
    return Case(
        lambda x, w, a, b: ops.lora_linear(x, w, a, b, scale=scale),
        [normal(rng, *shape) for shape in shapes],
        lambda x, w, a, b: np.einsum("...i,oi->...o", x, w + scale * b @ a),
    )


@strategy
def embedding(draw):
    rows, width, rng = draw(sides), draw(sides), draw(rngs)
    ids = constant(rng.integers(0, rows, draw(leading)))
    return Case(lambda w: ops.embedding(w, ids), [normal(rng, rows, width)], lambda w: w.take(ids, axis=0))


@strategy
def cross_entropy(draw):
    lead, classes, rng = draw(leading), draw(sides), draw(rngs)
    targets, arrays = constant(rng.integers(0, classes, lead)), [normal(rng, *lead, classes)]
    hit = targets[..., None] == np.arange(classes)
    return Case(lambda x: ops.cross_entropy(x, targets), arrays, lambda x: -np.log(soft(x)[hit]).mean())


@strategy
def rms_norm(draw):
    width, rng = draw(sides), draw(rngs)
    eps = 0.1 if width == 1 else draw(st.sampled_from([1e-6, 0.1]))  # for one feature, the gradient is of order ε
    return Case(
        lambda x, w: ops.rms_norm(x, w, eps=eps),
        [away_from_zero(rng, *draw(leading), width), normal(rng, width)],
        lambda x, w: w * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps),
    )


@strategy
def rotary(draw):
    B, T, H, h, rng = draw(sides), draw(sides), draw(sides), draw(sides), draw(rngs)
    angles = rng.uniform(-np.pi, np.pi, (T, 1, h))
    cos, sin = constant(np.cos(angles)), constant(np.sin(angles))

    def expected(x):  # each pair is a complex number; a rotation multiplies it by e**(i angle)
        turned = (x[..., :h] + 1j * x[..., h:]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag], axis=-1)

    def function(x):
        return ops.rotary(x, cos.astype(x.dtype), sin.astype(x.dtype))

    return Case(function, [normal(rng, B, T, H, 2 * h)], expected)


@strategy
def dropout(draw):
    shape, rng, p, seed = draw(shapes), draw(rngs), draw(st.sampled_from([0, 0.1, 0.5, 0.9])), draw(sides)
    factors = (np.random.default_rng(seed).random(shape, dtype=np.float32) >= p) / (1 - p)
    arrays = [normal(rng, *shape)]
    return Case(lambda x: ops.dropout(x, p, np.random.default_rng(seed)), arrays, lambda x: x * factors)


@strategy
def causal_attention(draw):
    B, G, group, T, D = draw(st.tuples(*[st.integers(1, 3)] * 5))
    S, block, rng = T + draw(st.integers(0, 2)), draw(st.sampled_from([1, 2, 64])), draw(rngs)

    def function(q, k, v):
        with mock.patch.object(attention, "BLOCK", block):
            return ops.causal_attention(q, k, v)

    def expected(q, k, v):
        k, v = k.repeat(group, axis=1), v.repeat(group, axis=1)
        scores = q @ k.swapaxes(2, 3) / np.sqrt(D)
        return soft(np.where(np.tri(T, S, S - T), scores, -np.inf)) @ v

    arrays = [normal(rng, B, G * group, T, D), normal(rng, B, G, S, D), normal(rng, B, G, S, D)]
    return Case(function, arrays, expected)


@pytest.fixture(scope="session")
def strategies():
    """The names of the ops that have a strategy."""
    return STRATEGIES.keys()


@pytest.fixture(scope="session")
def draw_case():
    return lambda data, name: data.draw(STRATEGIES[name])


@pytest.fixture
def plant(monkeypatch):
    """The decorator `op`; ops registered with it are removed after the test."""
    monkeypatch.setattr("minilora.autograd.tensor.OPS", dict(OPS))
    return op
