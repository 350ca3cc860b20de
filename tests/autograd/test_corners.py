"""Single ops at the points that random cases miss: ties, kinks, repeats, empty arrays, arguments that do not fit."""

import functools
import re

import numpy as np
import pytest

from minilora.autograd import OPS, Tensor, gradcheck, gradients, ops


def pulled(function, x, cotangent=None):
    """The gradient of Σ cotangent · function(x), ones unless given."""
    x = Tensor(np.asarray(x, dtype=np.float64), requires_grad=True)
    y = function(x)
    return gradients(y, [x], np.ones(y.shape) if cotangent is None else np.asarray(cotangent))[0].tolist()


def test_max_ties_share_equally():
    x = [[2.0, 5.0, 5.0], [7.0, 7.0, 7.0]]
    assert pulled(lambda x: ops.max(x, axis=1), x, [6.0, 9.0]) == [[0, 3, 3], [3, 3, 3]]
    assert pulled(ops.max, x, 6.0) == [[0, 0, 0], [2, 2, 2]]


def test_relu_is_flat_at_zero():
    assert pulled(ops.relu, [-1.0, 0.0, 2.0]) == [0, 0, 1]


@pytest.mark.parametrize(("p", "expected"), [(0, 0), (1, 1), (2, 0), (3, 0)])
def test_powers_have_a_derivative_at_zero(p, expected):
    with np.errstate(all="raise"):
        assert pulled(lambda x: x**p, [0.0]) == [expected]


def test_power_refuses_an_exponent_that_would_need_a_gradient():
    x = Tensor([2.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"exp\(p \* log\(x\)\)"):
        x**x


def test_where_takes_one_side_or_the_other_whole():
    x, y = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0], requires_grad=True)
    for condition, expected in ((True, [1, 2]), (np.bool_(False), [3, 4]), (np.array([False, True]), [3, 2])):
        assert ops.where(condition, x, y).data.tolist() == expected
        gx, gy = gradients(ops.where(condition, x, y), [x, y], np.ones(2))
        assert (gx + gy).tolist() == [1, 1]
        assert (gx == 1).tolist() == (np.array(expected) < 3).tolist()


def test_where_lets_no_nan_through_from_the_side_not_taken():
    x = Tensor([0.0, 4.0], requires_grad=True)
    safe = ops.where(np.array([False, True]), x, 1.0)
    assert gradients(ops.log(safe), [x], np.ones(2))[0].tolist() == [0, 0.25]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ([1, 1, 1, 0], [1, 3, 0]),
        (np.array([-1, 2, -1]), [0, 0, 3]),
        (np.array([[0, 1], [1, 1]]), [1, 3, 0]),
        (np.array([True, False, True]), [1, 0, 1]),
        (slice(None, None, -2), [1, 0, 1]),
        (np.int64(-2), [0, 1, 0]),
        (1, [0, 1, 0]),
        (..., [1, 1, 1]),
        (None, [1, 1, 1]),
        ((None, slice(1, 1)), [0, 0, 0]),
        ((np.array([2, 2]), None), [0, 0, 2]),
    ],
)
def test_index_counts_each_time_an_entry_is_taken(key, expected):
    assert pulled(lambda x: x[key], [5.0, 6.0, 7.0]) == expected


def test_index_by_a_tensor_of_places():
    assert pulled(lambda x: x[Tensor(np.array([2, 2, 0]))], [5.0, 6.0, 7.0]) == [1, 0, 2]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.uint64])
def test_embedding_adds_up_repeated_ids(dtype):
    ids = np.array([[3, 0, 3], [3, 0, 2]], dtype=dtype)
    found = pulled(lambda w: ops.embedding(w, ids), np.zeros((5, 2)), np.arange(12.0).reshape(2, 3, 2))
    assert found == [[2 + 8, 3 + 9], [0, 0], [10, 11], [0 + 4 + 6, 1 + 5 + 7], [0, 0]]


@pytest.mark.parametrize("ids", [[5], [-1], [0, 4, 5]])
def test_embedding_refuses_ids_outside_the_table(ids):
    with pytest.raises(ValueError, match="ids from 0 to 4"):
        ops.embedding(Tensor(np.zeros((5, 2))), np.array(ids))


@pytest.mark.parametrize(
    ("function", "shape", "result"),
    [
        (lambda x: ops.embedding(x, np.zeros((2, 0), int)), (3, 4), (2, 0, 4)),
        (lambda x: ops.linear(x, np.ones((2, 4))), (0, 4), (0, 2)),
        (lambda x: x[np.zeros(0, int)], (3, 4), (0, 4)),
        (lambda x: x * 2 + 1, (0, 3), (0, 3)),
        (lambda x: x * np.ones((2, 1, 1)), (0, 3), (2, 0, 3)),
        (lambda x: x.sum(axis=0), (0, 3), (3,)),
        (lambda x: x.mean(axis=1), (0, 3), (0,)),
        (ops.softmax, (0, 3), (0, 3)),
        (lambda x: ops.rms_norm(x, np.ones(3)), (0, 3), (0, 3)),
    ],
)
def test_nothing_in_nothing_out(function, shape, result):
    x = Tensor(np.ones(shape), requires_grad=True)
    y = function(x)
    assert y.shape == result
    (g,) = gradients(y, [x], np.ones(result))
    assert g.shape == shape
    assert (g == 0).all() or result == (3,)


def test_reductions_take_numpy_integers_as_axis():
    x = np.arange(6.0).reshape(2, 3)
    for reduction in (ops.sum, ops.mean, ops.max):
        along_rows = functools.partial(reduction, axis=np.int64(1))
        assert gradcheck(along_rows, [x], np.random.default_rng(0)) < 1e-7


def test_without_arguments_reductions_take_every_axis_and_concatenate_the_first():
    x = np.arange(6.0).reshape(2, 3)
    for found, expected in (
        (ops.sum(x), x.sum()),
        (ops.mean(x), x.mean()),
        (ops.max(x), x.max()),
        (ops.concatenate(x, 2 * x), np.concatenate([x, 2 * x])),
    ):
        assert found.shape == expected.shape
        assert found.data.tolist() == expected.tolist()


@pytest.mark.parametrize(("left", "right"), [((3,), (3, 2)), ((2, 3), (3,)), ((3,), (3,))])
def test_matmul_refuses_vectors(left, right):
    with pytest.raises(ValueError, match=re.escape(f"matrices, got shapes {left} and {right}; reshape")):
        Tensor(np.ones(left)) @ Tensor(np.ones(right))


@pytest.mark.parametrize("features", [2, 4])
def test_linear_refuses_another_number_of_features(features):
    with pytest.raises(ValueError, match=rf"linear expects 3 features .* got x of \(2, {features}\)"):
        ops.linear(Tensor(np.ones((2, features))), Tensor(np.ones((5, 3))))


@pytest.mark.parametrize(("gate", "up"), [(1, 2), (2, 1)])
def test_silu_gate_refuses_shapes_that_differ(gate, up):
    with pytest.raises(ValueError, match=rf"silu_gate expects .* \({gate}, 3\) and \({up}, 3\)"):
        ops.silu_gate(Tensor(np.ones((gate, 3))), Tensor(np.ones((up, 3))))


def test_the_public_names_are_all_ops_and_all_the_ops():
    assert set(ops.__all__) == set(OPS)
