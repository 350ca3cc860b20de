"""Values and gradients of all ops over the whole range of magnitudes, against references in extended precision.

The error may be at most C ε (|f| + κ), where κ = Σ |xᵢ ∂f/∂xᵢ| is the condition of the result with respect to relative
changes of its inputs, measured on the reference. For ops whose outputs depend on several entries, f and κ are the
largest of the array. The gradients of rms_norm and attention contain a projection: there, the size of the projected
vector counts as well. Nothing may overflow on the way to a finite result, and nothing may be NaN.
"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minilora.autograd import OPS, Tensor, gradients, ops

L = np.longdouble
EXTENDED = bool(np.finfo(L).eps < 1e-18)
C = 16
STEP = L(2) ** -20


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, L(1)) / (1 + e)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def times_jacobian(p, g):
    """Σⱼ pᵢ pⱼ (gᵢ - gⱼ), the gradient of softmax."""
    return p * np.einsum("...j,...ij->...i", p, g[..., :, None] - g[..., None, :])


def cross_entropy(x, targets):
    """Mean of log Σ exp(xⱼ - x_target), without the cancellation where the target has the largest logit."""
    rows = np.arange(len(x))
    others = x - x[rows, targets][:, None]
    top = others.max(axis=-1, keepdims=True)
    e = np.exp(others - top)
    first = e.argmax(axis=-1)
    e[rows, first] = 0
    return (top[:, 0] + np.log1p(e.sum(axis=-1))).mean()


def cross_entropy_gradient(g, x, targets):
    p, rows = softmax(x), np.arange(len(x))
    p[rows, targets] = 0
    p[rows, targets] = -p.sum(axis=-1)
    return [g * p / len(x)]


def rms(x, eps):
    return 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + L(eps))


def rms_norm_gradient(g, x, w, eps=1e-6):
    r, u, n = rms(x, eps), g * w, x.shape[-1]
    mixed = np.einsum("...j,...ij->...i", x, u[..., :, None] * x[..., None, :] - x[..., :, None] * u[..., None, :])
    return [r**3 * (u * L(eps) + mixed / n), (g * x * r).sum(axis=0)]


def silu_slope(x):
    return sigmoid(x) * (1 + x * sigmoid(-x))


def attention(q, k, v):
    return attention_weights(q, k) @ v


def attention_weights(q, k):
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(L(q.shape[-1]))
    scores[..., np.triu(np.ones(scores.shape[-2:], bool), 1)] = -np.inf
    return softmax(scores)


def attention_gradient(g, q, k, v):
    p = attention_weights(q, k)
    s = times_jacobian(p, g @ np.swapaxes(v, -1, -2)) / np.sqrt(L(q.shape[-1]))
    return [s @ k, np.swapaxes(s, -1, -2) @ q, np.swapaxes(p, -1, -2) @ g]


TARGETS = np.array([0, 2])
PAIRS, MASK = np.array([[[0.6, 0.8]], [[-0.8, 0.6]]]), np.array([[True, False, True], [False, True, False]])


def rotary(x, sign=1):
    cos, sin = (L(1) * PAIRS[..., :1], sign * L(1) * PAIRS[..., 1:])
    a, b = x[..., :1], x[..., 1:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


# name -> (the call on Tensors, shapes, positive inputs, value, gradients given g); on arrays of extended precision
VECTOR = (2, 3)
ELEMENTWISE = {
    "add": (ops.add, 2, False, lambda x, y: x + y, lambda g, x, y: [g, g]),
    "sub": (ops.sub, 2, False, lambda x, y: x - y, lambda g, x, y: [g, -g]),
    "mul": (ops.mul, 2, False, lambda x, y: x * y, lambda g, x, y: [g * y, g * x]),
    "div": (ops.div, 2, False, lambda x, y: x / y, lambda g, x, y: [g / y, -g * x / y / y]),
    "neg": (ops.neg, 1, False, lambda x: -x, lambda g, x: [-g]),
    **{
        f"power {p}": (
            lambda x, p=p: ops.power(x, p),
            1,
            p != int(p),
            lambda x, p=p: x ** L(p),
            lambda g, x, p=p: [g * L(p) * x ** L(p - 1)],
        )
        for p in (2, 3, -1, 0.5, 1.5, -0.5, 1)
    },
    "exp": (ops.exp, 1, False, np.exp, lambda g, x: [g * np.exp(x)]),
    "log": (ops.log, 1, True, np.log, lambda g, x: [g / x]),
    "sqrt": (ops.sqrt, 1, True, np.sqrt, lambda g, x: [g / (2 * np.sqrt(x))]),
    "tanh": (ops.tanh, 1, False, np.tanh, lambda g, x: [g * 4 * sigmoid(-2 * np.abs(x)) * sigmoid(2 * np.abs(x))]),
    "relu": (ops.relu, 1, False, lambda x: np.maximum(x, 0), lambda g, x: [g * (x > 0)]),
    "sigmoid": (ops.sigmoid, 1, False, sigmoid, lambda g, x: [g * sigmoid(x) * sigmoid(-x)]),
    "silu": (ops.silu, 1, False, lambda x: x * sigmoid(x), lambda g, x: [g * silu_slope(x)]),
    "where": (
        lambda x, y: ops.where(MASK, x, y),
        2,
        False,
        lambda x, y: np.where(MASK, x, y),
        lambda g, x, y: [np.where(MASK, g, 0), np.where(MASK, 0, g)],
    ),
    "silu_gate": (
        ops.silu_gate,
        2,
        False,
        lambda x, y: x * sigmoid(x) * y,
        lambda g, x, y: [g * y * silu_slope(x), g * x * sigmoid(x)],
    ),
}
A, B = (2, 3), (4, 2)
MIXING = {
    "softmax": (ops.softmax, [VECTOR], softmax, lambda g, x: [times_jacobian(softmax(x), g)]),
    "cross_entropy": (
        lambda x: ops.cross_entropy(x, TARGETS),
        [VECTOR],
        lambda x: cross_entropy(x, TARGETS),
        lambda g, x: cross_entropy_gradient(g, x, TARGETS),
    ),
    "rms_norm": (ops.rms_norm, [VECTOR, (3,)], lambda x, w: x * rms(x, 1e-6) * w, rms_norm_gradient),
    "rms_norm eps 0": (
        lambda x, w: ops.rms_norm(x, w, eps=0.0),
        [VECTOR, (3,)],
        lambda x, w: x * rms(x, 0) * w,
        lambda g, x, w: rms_norm_gradient(g, x, w, 0),
    ),
    "causal_attention": (ops.causal_attention, [(1, 1, 3, 2)] * 3, attention, attention_gradient),
    "rotary": (
        lambda x: ops.rotary(x, *np.split(PAIRS.astype(x.dtype), 2, -1)),
        [(1, 2, 1, 2)],
        rotary,
        lambda g, x: [rotary(g, -1)],
    ),
    "dropout": (
        lambda x: ops.dropout(x, 0.25, np.random.default_rng(0)),
        [VECTOR],
        lambda x: x * (np.random.default_rng(0).random(VECTOR, dtype=np.float32) >= 0.25) / L(0.75),
        lambda g, x: [g * (np.random.default_rng(0).random(VECTOR, dtype=np.float32) >= 0.25) / L(0.75)],
    ),
    "matmul": (ops.matmul, [(2, 3), (3, 2)], lambda x, y: x @ y, lambda g, x, y: [g @ y.T, x.T @ g]),
    "linear": (ops.linear, [(2, 3), (4, 3)], lambda x, w: x @ w.T, lambda g, x, w: [g @ w, g.T @ x]),
    "embedding": (
        lambda w: ops.embedding(w, TARGETS),
        [(3, 2)],
        lambda w: w[TARGETS],
        lambda g, w: [np.stack([g[0], 0 * g[0], g[1]])],
    ),
    "lora_linear": (
        lambda x, w, a, b: ops.lora_linear(x, w, a, b, scale=0.5),
        [(2, 3), (4, 3), A, B],
        lambda x, w, a, b: x @ (w + b @ a / 2).T,
        lambda g, x, w, a, b: [g @ (w + b @ a / 2), g.T @ x, (g @ b).T @ x / 2, g.T @ (x @ a.T) / 2],
    ),
    "sum": (ops.sum, [VECTOR], np.sum, lambda g, x: [g + 0 * x]),
    "mean": (ops.mean, [VECTOR], np.mean, lambda g, x: [g / x.size + 0 * x]),
    "max": (ops.max, [VECTOR], np.max, lambda g, x: [g * (x == x.max()) / (x == x.max()).sum()]),
    "reshape": (lambda x: ops.reshape(x, (3, 2)), [VECTOR], lambda x: x.reshape(3, 2), lambda g, x: [g.reshape(2, 3)]),
    "transpose": (lambda x: ops.transpose(x, (1, 0)), [VECTOR], lambda x: x.T, lambda g, x: [g.T]),
    "index": (lambda x: x[1], [VECTOR], lambda x: x[1], lambda g, x: [np.stack([0 * g, g])]),
    "concatenate": (
        lambda x, y: ops.concatenate([x, y], axis=0),
        [VECTOR, VECTOR],
        lambda x, y: np.concatenate([x, y]),
        lambda g, x, y: [g[:2], g[2:]],
    ),
}


def test_every_op_has_a_reference():
    assert {name.split()[0] for name in [*ELEMENTWISE, *MIXING]} == set(OPS)


exponents = st.floats(-30, 30)
special = st.sampled_from([0.0, 1e-40, 1e-39, 1e-30, 1.0, 17.0, 60.0, 87.0, 88.5, 89.5, 103.0, 700.0, 740.0, 1e4, 1e30])
magnitudes = st.one_of(special, exponents.map(lambda e: 10.0**e), st.floats(0.01, 120))


@st.composite
def arrays(draw, shape, positive, mixed):
    """Entries of one magnitude, or with `mixed` each of its own."""
    size = int(np.prod(shape))
    sign = st.just(1.0) if positive else st.sampled_from([1.0, -1.0])
    if mixed:
        entries = [draw(magnitudes) * draw(sign) for _ in range(size)]
    else:
        scale = draw(magnitudes)
        entries = [scale * draw(sign) * draw(st.floats(0.25, 1)) for _ in range(size)]
    return np.array(entries).reshape(shape)


def condition(f, inputs):
    """f in extended precision, and Σ |xᵢ ∂f/∂xᵢ|."""
    value = [np.asarray(part) for part in f(*inputs)]
    total = [np.zeros(part.shape, L) for part in value]
    for n, x in enumerate(inputs):
        for i in np.ndindex(x.shape):
            moved = [y.copy() for y in inputs]
            moved[n][i] *= 1 + STEP
            for t, part, before in zip(total, f(*moved), value, strict=True):
                t += np.abs(part - before) / STEP
    return value, total


def check(call, inputs, value, gradient, dtype, together, seed, projected=""):
    """Compare the value and the gradients of an op with those of its reference."""
    given = [x.astype(dtype) for x in inputs]
    exact = [x.astype(L) for x in given]
    with np.errstate(all="ignore"):
        tensors = [Tensor(x, requires_grad=True) for x in given]
        y = call(*tensors)
        g = np.asarray(np.random.default_rng(seed).uniform(0.5, 1, y.shape) * (-1) ** seed).astype(dtype)
        found = [y.data, *gradients(y, tensors, g)]
        want, allowed = condition(lambda *x: [value(*x), *gradient(g.astype(L), *x)], exact)
        info = np.finfo(dtype)
        for got, right, kappa in zip(found, want, allowed, strict=True):
            fits = np.isfinite(right) & (np.abs(right) <= info.max / 4)
            if together and not fits.all():
                continue
            size = np.abs(right) + kappa
            if "rms_norm" in projected and got is found[1]:
                size = size + np.abs(g * exact[1] * rms(exact[0], 0 if "0" in projected else 1e-6))
            if "attention" in projected and (got is found[1] or got is found[2]):
                other = exact[1] if got is found[1] else exact[0]
                size = size + np.abs(g).max() * np.abs(exact[2]).max() * np.abs(other).max()
            if together and size.size:
                size = np.max(size)
            error = np.abs(got.astype(L) - right)
            bound = (4 if together else 1) * C * info.eps * size + 8 * info.tiny
            assert np.all(~fits | (error <= bound)), (got, right, np.max(error / bound))
    assert all(array.dtype == dtype for array in found)


dtypes = st.sampled_from([np.float32] + [np.float64] * EXTENDED)


@pytest.mark.parametrize("name", ELEMENTWISE)
@settings(max_examples=60)
@given(data=st.data(), dtype=dtypes, seed=st.integers(0, 99))
def test_elementwise_ops_are_accurate_everywhere(name, data, dtype, seed):
    call, count, positive, value, gradient = ELEMENTWISE[name]
    inputs = [data.draw(arrays(VECTOR, positive, True)) for _ in range(count)]
    if name in ("log", "div", "power -1", "power -0.5"):
        assume(all(np.all(x != 0) for x in inputs))
    check(call, inputs, value, gradient, dtype, False, seed)


@pytest.mark.parametrize("name", MIXING)
@settings(max_examples=60)
@given(data=st.data(), dtype=dtypes, mixed=st.booleans(), seed=st.integers(0, 99))
def test_ops_over_several_entries_are_accurate_everywhere(name, data, dtype, mixed, seed):
    call, shapes, value, gradient = MIXING[name]
    inputs = [data.draw(arrays(shape, False, mixed)) for shape in shapes]
    if name == "rms_norm eps 0":
        assume(np.all(np.abs(inputs[0]).max(axis=-1) > 1e-36))  # else r itself overflows
    check(call, inputs, value, gradient, dtype, True, seed, name)


@pytest.mark.parametrize("gap", [1, 5, 17, 40, 87, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loss_of_a_certain_prediction_is_accurate(gap, dtype):
    """-log p and p - 1 for p almost 1: both about 2 e**-gap."""
    x = np.array([[gap, 0, 0], [0, 0, gap]], dtype)
    logits = Tensor(x, requires_grad=True)
    loss, eps, tiny = ops.cross_entropy(logits, TARGETS), float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    assert loss.item() == pytest.approx(float(cross_entropy(x.astype(L), TARGETS)), rel=10 * eps, abs=tiny)
    (found,) = gradients(loss, [logits])
    (expected,) = cross_entropy_gradient(L(1), x.astype(L), TARGETS)
    np.testing.assert_allclose(found, expected.astype(float), rtol=100 * eps, atol=tiny)


@pytest.mark.parametrize("scale", [1e18, 1e25, 1e30])
def test_attention_scores_that_overflow_select_the_largest(scale):
    q, k, v = (np.ones((1, 1, 3, 2), np.float32) for _ in range(3))
    k[0, 0, :, 0], v[0, 0] = [1, 3, 2], [[1, 2], [3, 4], [5, 6]]
    tensors = [Tensor(a, requires_grad=True) for a in (q * np.float32(scale), k * np.float32(scale), v)]
    out = ops.causal_attention(*tensors)
    assert out.data[0, 0].tolist() == [[1, 2], [3, 4], [3, 4]]
    assert gradients(out.sum(), tensors)[2][0, 0].tolist() == [[1, 1], [2, 2], [0, 0]]
    assert all(np.isfinite(g).all() for g in gradients(out.sum(), tensors))
