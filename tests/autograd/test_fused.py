"""A fused op equals its composition from plain ops, in value and in every gradient.

The difference is relative, for random cotangents: 1e-12 in float64, where only the order of the sums differs; 1e-5 in
float32, whose rounding of 6e-8 grows with the number of terms. Attention has its own file.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from minilora.autograd import Tensor, gradients, ops

PRECISIONS = [(np.float64, 1e-12), (np.float32, 1e-5)]


def plain_sigmoid(x):
    return 1 / (1 + ops.exp(-x))


def plain_softmax(x):
    e = ops.exp(x - ops.max(x, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def plain_rms_norm(x, weight):
    return weight * x / ops.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)


TARGETS = np.array([[3, 0, 3], [6, 3, 1]])


def plain_cross_entropy(logits):
    flat = logits.reshape(6, 7)
    return -ops.log(plain_softmax(flat)[np.arange(6), TARGETS.reshape(-1)]).mean()


ANGLES = np.random.default_rng(5).uniform(-3, 3, (5, 1, 4))


def fused_rotary(x):
    return ops.rotary(x, np.cos(ANGLES).astype(x.dtype), np.sin(ANGLES).astype(x.dtype))


def plain_rotary(x):
    cos, sin = np.cos(ANGLES).astype(x.dtype), np.sin(ANGLES).astype(x.dtype)
    first, second = x[..., :4], x[..., 4:]
    return ops.concatenate(first * cos - second * sin, second * cos + first * sin, axis=-1)


IDS = np.array([[2, 2, 0, 5], [2, 5, 1, 2]])  # 2 four times, 3 and 4 never


def plain_embedding(weight):
    one_hot = (IDS[..., None] == np.arange(6)).astype(weight.dtype)
    return Tensor(one_hot) @ weight


def fused_lora(x, weight, A, B):
    return ops.lora_linear(x, weight, A, B, scale=-0.75)


def plain_lora(x, weight, A, B):
    return x @ weight.T + (x @ A.T) @ B.T * -0.75


CASES = {
    "cross_entropy": (lambda x: ops.cross_entropy(x, TARGETS), plain_cross_entropy, [(2, 3, 7)]),
    "embedding": (lambda w: ops.embedding(w, IDS), plain_embedding, [(6, 3)]),
    "linear": (ops.linear, lambda x, w: x @ w.T, [(2, 9, 5), (4, 5)]),
    "lora_linear": (fused_lora, plain_lora, [(2, 9, 5), (4, 5), (3, 5), (4, 3)]),
    "rms_norm": (ops.rms_norm, plain_rms_norm, [(3, 4, 16), (16,)]),
    "rotary": (fused_rotary, plain_rotary, [(2, 5, 3, 8)]),
    "sigmoid": (ops.sigmoid, plain_sigmoid, [(4, 33)]),
    "silu": (ops.silu, lambda x: x * plain_sigmoid(x), [(4, 33)]),
    "silu_gate": (ops.silu_gate, lambda gate, up: gate * plain_sigmoid(gate) * up, [(4, 33), (4, 33)]),
    "softmax": (ops.softmax, plain_softmax, [(2, 3, 9)]),
}


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_fused_equals_its_composition(error, name, dtype, tolerance):
    fused, plain, shapes = CASES[name]
    rng = np.random.default_rng(1)
    inputs = [Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]
    found, expected = fused(*inputs), plain(*inputs)
    assert found.dtype == expected.dtype == dtype
    assert found.shape == expected.shape
    assert error(found.data, expected.data) < tolerance
    cotangent = np.asarray(rng.standard_normal(found.shape), dtype)
    for ours, theirs in zip(gradients(found, inputs, cotangent), gradients(expected, inputs, cotangent), strict=True):
        assert error(ours, theirs) < tolerance


@pytest.mark.parametrize(
    ("x", "weight", "A", "B"),
    [
        ((2, 4), (3, 5), (2, 5), (3, 2)),  # x has too few features
        ((2, 5), (3, 5), (2, 4), (3, 2)),  # A reads too few
        ((2, 5), (3, 5), (2, 5), (2, 2)),  # B writes too few
        ((2, 5), (3, 5), (2, 5), (3, 1)),  # A and B have other ranks
    ],
)
def test_lora_linear_refuses_shapes_that_do_not_fit(x, weight, A, B):
    with pytest.raises(ValueError, match="lora_linear expects"):
        ops.lora_linear(*(Tensor(np.zeros(shape)) for shape in (x, weight, A, B)))


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_extreme_values_neither_overflow_nor_become_nan(value):
    x = Tensor(np.array([[value, 0.0, 1.0]]), requires_grad=True)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        outputs = [ops.sigmoid(x), ops.silu(x), ops.softmax(x), ops.silu_gate(x, x)]
        outputs += [ops.cross_entropy(x, np.array([i])) for i in range(3)]
        for output in outputs:
            assert np.isfinite(output.data).all()
            assert np.isfinite(gradients(output, [x], np.ones(output.shape))[0]).all()


def test_extreme_values_have_their_limits():
    x = Tensor(np.array([[1e4, 0.0, -1e4]]))
    assert ops.sigmoid(x).data.tolist() == [[1, 0.5, 0]]
    assert ops.silu(x).data.tolist() == [[1e4, 0, 0]]
    assert ops.softmax(x).data.tolist() == [[1, 0, 0]]
    assert ops.cross_entropy(x, np.array([1])).item() == 1e4


def test_softmax_gives_minus_infinity_no_weight_at_all():
    x = Tensor(np.array([0.3, -np.inf, 0.3, -np.inf]), requires_grad=True)
    p = ops.softmax(x)
    assert p.data.tolist() == [0.5, 0, 0.5, 0]
    assert gradients(p, [x], np.array([1.0, 2.0, 3.0, 4.0]))[0].tolist() == [-0.5, 0, 0.5, 0]


def test_cross_entropy_of_equal_logits_is_log_of_the_number_of_classes():
    loss = ops.cross_entropy(Tensor(np.full((4, 5, 256), 7.5)), np.zeros((4, 5), int))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(np.log(256), rel=1e-14)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        ((2, 3), [0, 3], "from 0 to 2"),
        ((2, 3), [-1, 0], "from 0 to 2"),
        ((2, 3), [0], r"targets of shape \(2,\)"),
        ((2, 3), [[0], [1]], r"targets of shape \(2,\), one per logit row, got \(2, 1\)"),
        ((0, 3), [], "at least one target"),
        ((2, 1, 3), [0, 1], r"targets of shape \(2, 1\), one per logit row, got \(2,\)"),
    ],
)
def test_cross_entropy_refuses_targets_that_do_not_fit(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        ops.cross_entropy(Tensor(np.zeros(logits)), np.array(targets))


def test_rms_norm_adds_epsilon_to_the_mean_square():
    x = Tensor(np.array([[3e-3, -4e-3]]))
    unit = Tensor(np.ones(2))
    mean_square = 12.5e-6
    for eps in (1e-6, 1e-4):
        found = ops.rms_norm(x, unit, eps=eps).data
        np.testing.assert_allclose(found, x.data / np.sqrt(mean_square + eps), rtol=1e-14)
    assert ops.rms_norm(Tensor(np.zeros((1, 2))), unit).data.tolist() == [[0, 0]]


def test_rotary_keeps_lengths_and_sees_only_the_distance_of_places():
    rng = np.random.default_rng(2)
    angles = (np.arange(20)[:, None] * np.array([1.0, 0.1, 0.01]))[:, None]  # (T, 1, h)
    q, k = rng.standard_normal((2, 6))

    def turned(x):
        return ops.rotary(Tensor(np.tile(x, (1, 20, 1, 1))), np.cos(angles), np.sin(angles)).data[0, :, 0]

    np.testing.assert_allclose(np.linalg.norm(turned(q), axis=-1), np.linalg.norm(q), rtol=1e-14)
    scores = turned(q) @ turned(k).T
    np.testing.assert_allclose(np.diag(scores, 3), scores[0, 3], rtol=1e-12)
    assert abs(scores[0, 3] - scores[3, 0]) > 0.1  # the two directions differ


@pytest.mark.parametrize("features", [4, 8])
def test_rotary_refuses_another_number_of_features(features):
    with pytest.raises(ValueError, match="rotary expects 6 features"):
        ops.rotary(Tensor(np.zeros((1, 2, 1, features))), np.zeros((2, 1, 3)), np.zeros((2, 1, 3)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_drops_the_fraction_and_keeps_the_mean(p):
    x = Tensor(np.full(40_000, 2.0))
    y = ops.dropout(x, p, np.random.default_rng(0)).data
    deviation = np.sqrt(p * (1 - p) / x.size)  # of the fraction dropped
    assert set(np.unique(y)) == {0, 2 / (1 - p)}
    assert abs(np.mean(y == 0) - p) < 4 * deviation
    assert abs(y.mean() - 2) < 4 * 2 * deviation / (1 - p)


def test_dropout_with_probability_zero_is_the_identity():
    x = np.random.default_rng(1).standard_normal((5, 7))
    assert np.array_equal(ops.dropout(Tensor(x), 0.0, np.random.default_rng(0)).data, x)


@pytest.mark.parametrize(("p", "expected"), [(0.0, [1, 1, 1, 1]), (0.5, [0, 0, 2, 2])])
def test_dropout_keeps_what_draws_the_probability_itself(p, expected):
    """A draw can be exactly 0; with probability 0 nothing is dropped all the same."""
    rng = SimpleNamespace(random=lambda shape, dtype: np.array([0, 0.25, 0.5, 0.75], dtype))
    assert ops.dropout(Tensor(np.ones(4)), p, rng).data.tolist() == expected


def test_dropout_draws_anew_each_time_and_the_same_from_the_same_seed():
    x, rng = Tensor(np.ones(100)), np.random.default_rng(3)
    first, second = ops.dropout(x, 0.5, rng).data, ops.dropout(x, 0.5, rng).data
    assert not np.array_equal(first, second)
    assert np.array_equal(first, ops.dropout(x, 0.5, np.random.default_rng(3)).data)


def test_dropout_sends_gradient_through_what_it_kept():
    x = Tensor(np.ones(50), requires_grad=True)
    y = ops.dropout(x, 0.4, np.random.default_rng(4))
    assert np.array_equal(gradients(y, [x], np.ones(50))[0], y.data)
