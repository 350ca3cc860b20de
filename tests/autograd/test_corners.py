"""Single ops at points that random cases miss: ties, kinks, extreme values, empty arrays, invalid arguments."""

import functools
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from minilora.autograd import OPS, Tensor, gradcheck, gradients, ops, stop_gradient
from minilora.autograd.ops import low_rank
from minilora.autograd.ops.low_rank import low_rank_linear


def pulled(function, x, cotangent=None):
    """The gradient of Σ cotangent · function(x); the cotangent is all ones unless given."""
    x = Tensor(np.asarray(x, dtype=np.float64), requires_grad=True)
    y = function(x)
    return gradients(y, [x], np.ones(y.shape) if cotangent is None else np.asarray(cotangent))[0].tolist()


def test_max_ties_share_equally():
    x = [[2.0, 5.0, 5.0], [7.0, 7.0, 7.0]]
    assert pulled(lambda x: ops.max(x, axis=1), x, [6.0, 9.0]) == [[0, 3, 3], [3, 3, 3]]
    assert pulled(ops.max, x, 6.0) == [[0, 0, 0], [2, 2, 2]]


def test_relu_is_flat_at_zero():
    assert pulled(ops.relu, [-1.0, 0.0, 2.0]) == [0, 0, 1]


def test_powers_have_a_derivative_at_zero():
    with np.errstate(all="raise"):
        assert [pulled(lambda x, p=p: x**p, [0.0]) for p in (0, 1, 2)] == [[0], [1], [0]]


def test_where_lets_no_nan_through_from_the_side_not_taken():
    x = Tensor([0.0, 4.0], requires_grad=True)
    safe = ops.where(np.array([False, True]), x, 1.0)
    assert gradients(ops.log(safe), [x], np.ones(2))[0].tolist() == [0, 0.25]
    assert ops.where(np.bool_(False), x, 1.0).data.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("key", "expected"),
    [([1, 1, 1, 0], [1, 3, 0]), (np.int64(-2), [0, 1, 0]), (Tensor(np.array([2, 2, 0])), [1, 0, 2])],
    ids=["a list", "a NumPy integer", "a tensor"],
)
def test_index_counts_each_time_an_entry_is_taken(key, expected):
    assert pulled(lambda x: x[key], [5.0, 6.0, 7.0]) == expected


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.uint64])
def test_embedding_adds_up_repeated_ids(dtype):
    ids = np.array([[3, 0, 3], [3, 0, 2]], dtype=dtype)
    found = pulled(lambda w: ops.embedding(w, ids), np.zeros((5, 2)), np.arange(12.0).reshape(2, 3, 2))
    assert found == [[2 + 8, 3 + 9], [0, 0], [10, 11], [0 + 4 + 6, 1 + 5 + 7], [0, 0]]


@pytest.mark.parametrize(
    ("function", "shape", "result"),
    [
        (lambda x: ops.embedding(x, np.zeros((2, 0), int)), (3, 4), (2, 0, 4)),
        (lambda x: ops.linear(x, np.ones((2, 4))), (0, 4), (0, 2)),
        (lambda x: x * np.ones((2, 1, 1)), (0, 3), (2, 0, 3)),
        (lambda x: x.mean(axis=1), (0, 3), (0,)),
        (lambda x: ops.rms_norm(x, np.ones(3)), (0, 3), (0, 3)),
    ],
)
def test_nothing_in_nothing_out(function, shape, result):
    x = Tensor(np.ones(shape), requires_grad=True)
    y = function(x)
    assert y.shape == result
    (g,) = gradients(y, [x], np.ones(result))
    assert g.shape == shape
    assert (g == 0).all()


def test_default_arguments():
    """By default, reductions use all axes, concatenate the first, rms_norm ε = 1e-6 and lora_linear a scale of 1.

    An axis may be a NumPy integer.
    """
    x = np.arange(6.0).reshape(2, 3)
    for found, expected in (
        (ops.sum(x), x.sum()),
        (ops.mean(x), x.mean()),
        (ops.max(x), x.max()),
        (ops.concatenate(x, 2 * x), np.concatenate([x, 2 * x])),
        (ops.lora_linear(x, np.eye(3), x, x.T), x @ (np.eye(3) + x.T @ x)),
        (low_rank_linear(*map(Tensor, (x, np.eye(3), x, x.T))), x @ (np.eye(3) + x.T @ x)),
    ):
        assert found.data.tolist() == expected.tolist()
    small = x[1:] / 1000
    np.testing.assert_allclose(ops.rms_norm(small, np.ones(3)).data, small / np.sqrt(np.mean(small**2) + 1e-6), 1e-14)
    for reduction in (ops.sum, ops.mean, ops.max):
        along_rows = functools.partial(reduction, axis=np.int64(1))
        assert gradcheck(along_rows, [x], np.random.default_rng(0)) < 1e-7


@pytest.mark.parametrize(("tokens", "trains", "products"), [(3, True, 3), (4, True, 0), (4, False, 3)])
def test_the_low_rank_product_goes_the_cheaper_way(tokens, trains, products):
    """With more than 4 · 12 / (4 + 12) = 3 tokens, and only in training, W + s · B A is computed first."""
    rng = np.random.default_rng(0)
    x, W, A, B = (Tensor(rng.standard_normal(shape)) for shape in ((tokens, 12), (4, 12), (2, 12), (4, 2)))
    A.requires_grad = B.requires_grad = trains
    with mock.patch.object(low_rank, "linear", wraps=ops.linear) as linear:
        h = low_rank_linear(x, W, A, B, scale=3.0)
    assert linear.call_count == products
    np.testing.assert_allclose(h.data, x.data @ (W.data + 3 * B.data @ A.data).T, rtol=1e-12)


def test_a_stopped_gradient_is_a_constant_to_rules_and_to_gradcheck():
    x = Tensor(np.array([2.0, -3.0]), requires_grad=True)
    assert gradients(x * stop_gradient(x), [x], np.ones(2))[0].tolist() == [2, -3]
    for function in (lambda x: x * stop_gradient(x), lambda x: x * stop_gradient(x.data)):
        assert gradcheck(function, [x.data], np.random.default_rng(0)) < 1e-9
    assert stop_gradient(x.data) is x.data


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_extreme_values_neither_overflow_nor_become_nan(value):
    x = Tensor(np.array([[value, 0.0, 1.0]]), requires_grad=True)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        outputs = [ops.sigmoid(x), ops.silu(x), ops.softmax(x), ops.silu_gate(x, x)]
        outputs += [ops.cross_entropy(x, np.array([i])) for i in range(3)]
        for output in outputs:
            assert np.isfinite(output.data).all()
            assert np.isfinite(gradients(output, [x], np.ones(output.shape))[0]).all()


def test_softmax_gives_minus_infinity_no_weight_at_all():
    x = Tensor(np.array([0.3, -np.inf, 0.3, -np.inf]), requires_grad=True)
    p = ops.softmax(x)
    assert p.data.tolist() == [0.5, 0, 0.5, 0]
    assert gradients(p, [x], np.array([1.0, 2.0, 3.0, 4.0]))[0].tolist() == [-0.5, 0, 0.5, 0]


@pytest.mark.parametrize(("p", "expected"), [(0.0, [1, 1, 1, 1]), (0.5, [0, 0, 2, 2])])
def test_dropout_keeps_what_draws_the_probability_itself(p, expected):
    """A draw can be exactly 0; with probability 0, the entry is kept nevertheless."""
    rng = SimpleNamespace(random=lambda shape, dtype: np.array([0, 0.25, 0.5, 0.75], dtype))
    assert ops.dropout(np.ones(4), p, rng).data.tolist() == expected


@pytest.mark.parametrize(
    ("function", "shapes", "message"),
    [
        (ops.matmul, [(3,), (3, 2)], r"matrices, got shapes \(3,\) and \(3, 2\); reshape"),
        (ops.matmul, [(2, 3), (3,)], r"matrices, got shapes \(2, 3\) and \(3,\); reshape"),
        (ops.linear, [(2, 2), (5, 3)], r"linear\(\) expects 3 features .* got x of shape \(2, 2\)"),
        (ops.linear, [(2, 4), (5, 3)], r"linear\(\) expects 3 features"),
        (ops.silu_gate, [(1, 3), (2, 3)], r"silu_gate\(\) expects .* \(1, 3\) and \(2, 3\)"),
        (ops.silu_gate, [(2, 3), (1, 3)], r"silu_gate\(\) expects"),
        (ops.rotary, [(1, 2, 1, 4), (2, 1, 3), (2, 1, 3)], r"rotary\(\) expects 6 features"),
        (ops.rotary, [(1, 2, 1, 8), (2, 1, 3), (2, 1, 3)], r"rotary\(\) expects 6 features"),
        (ops.lora_linear, [(2, 4), (3, 5), (2, 5), (3, 2)], r"lora_linear\(\) expects"),  # x has too few features
        (ops.lora_linear, [(2, 6), (3, 5), (2, 5), (3, 2)], r"lora_linear\(\) expects"),  # x has too many
        (ops.lora_linear, [(2, 5), (3, 5), (2, 4), (3, 2)], r"lora_linear\(\) expects"),  # A has too few columns
        (ops.lora_linear, [(2, 5), (3, 5), (2, 6), (3, 2)], r"lora_linear\(\) expects"),  # A has too many columns
        (ops.lora_linear, [(2, 5), (3, 5), (2, 5), (2, 2)], r"lora_linear\(\) expects"),  # B has too few rows
        (ops.lora_linear, [(2, 5), (3, 5), (2, 5), (4, 2)], r"lora_linear\(\) expects"),  # B has too many rows
        (ops.lora_linear, [(2, 5), (3, 5), (2, 5), (3, 1)], r"lora_linear\(\) expects"),  # A and B have different ranks
    ],
)
def test_shapes_that_do_not_fit_are_refused(function, shapes, message):
    with pytest.raises(ValueError, match=message):
        function(*map(np.zeros, shapes))


@pytest.mark.parametrize(
    ("function", "shape", "numbers", "message"),
    [
        (ops.embedding, (5, 2), [0, 4, 5], "ids from 0 to 4"),
        (ops.embedding, (5, 2), [-1], "ids from 0 to 4"),
        (ops.cross_entropy, (2, 3), [0, 3], "from 0 to 2"),
        (ops.cross_entropy, (2, 3), [-1, 0], "from 0 to 2"),
        (ops.cross_entropy, (2, 3), [0], r"targets of shape \(2,\)"),
        (ops.cross_entropy, (2, 3), [[0], [1]], r"targets of shape \(2,\), one per logit row, got \(2, 1\)"),
        (ops.cross_entropy, (2, 1, 3), [0, 1], r"targets of shape \(2, 1\), one per logit row, got \(2,\)"),
        (ops.cross_entropy, (0, 3), [], "at least one target"),
    ],
)
def test_ids_and_targets_that_do_not_fit_are_refused(function, shape, numbers, message):
    with pytest.raises(ValueError, match=message):
        function(np.zeros(shape), np.array(numbers))


def test_power_refuses_an_exponent_that_would_need_a_gradient():
    x = Tensor([2.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"exp\(p \* log\(x\)\)"):
        x**x


def test_the_public_names_are_all_ops_and_all_the_ops():
    assert set(ops.__all__) == set(OPS)
