"""Values from outside: lists, array-likes of other libraries, comparisons and in-place operators."""

import operator

import numpy as np
import pytest

from minilora.autograd import Tensor, gradients, no_grad, ops


class Series:
    """Like a pandas Series: it has a dtype and an index, aligns by index in arithmetic, and is no NumPy array."""

    def __init__(self, values, index):
        self.values, self.index, self.dtype = np.array(values), index, np.array(values).dtype

    def __array__(self, dtype=None, copy=None):
        return self.values.astype(dtype or self.dtype)

    def __sub__(self, other):
        raise AssertionError("aligned by index")


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (Series([1.0, 2.0, 4.0], [0, 1, 2]), np.float64, (3,)),
        (np.matrix([[1.0, 2.0], [3.0, 4.0]]), np.float64, (2, 2)),
        (np.float32(3), np.float32, ()),
        (3, np.float32, ()),
        (True, np.float32, ()),
        ([[1, 2], [3, 4]], np.float32, (2, 2)),
        ((1.5, 2), np.float32, (2,)),
        (range(3), np.float32, (3,)),
        ([np.float64(1), 2], np.float32, (2,)),
        ([], np.float32, (0,)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_a_tensor_is_made_of_becomes_a_plain_array(data, dtype, shape):
    x = Tensor(data)
    assert type(x.data) is np.ndarray
    assert (x.dtype, x.shape) == (dtype, shape)


@pytest.mark.parametrize(
    "data", [None, "text", [1, None], ["a"], [[1, 2], [3]], {"a": 1}, np.array(["a"]), object()], ids=repr
)
def test_what_are_no_numbers_is_refused(data):
    for make in (Tensor, lambda x: Tensor([1.0]) + x, lambda x: ops.add(x, 1)):
        with pytest.raises(TypeError, match="expected an array, a number or a nested list of numbers, got"):
            make(data)


def test_series_are_not_aligned():
    a, b = Series([1.0, 2.0, 3.0], [0, 1, 2]), Series([1.0, 2.0, 3.0], [2, 1, 0])
    assert (Tensor(a) - Tensor(b)).data.tolist() == (Tensor(a) - b).data.tolist() == [0, 0, 0]


def test_a_matrix_multiplies_elementwise_like_an_array():
    m = np.matrix([[1.0, 2.0], [3.0, 4.0]])
    assert (Tensor(m) * m).data.tolist() == [[1, 4], [9, 16]]


BINARY = [operator.add, operator.sub, operator.mul, operator.truediv]


@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "other",
    [2, 2.5, np.float64(2.5), np.int64(2), np.array(0.5), [1.0, 2.0, 4.0], [1, 2, 4], (1.0, 2.0, 4.0)],
    ids=repr,
)
def test_numbers_lists_and_0d_arrays_never_widen(function, other):
    x = Tensor(np.array([1, 2, 3], np.float32), requires_grad=True)
    plain = other.item() if isinstance(other, np.ndarray | np.generic) else np.array(other, np.float32)
    for y, expected in (function(x, other), function(x.data, plain)), (function(other, x), function(plain, x.data)):
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y.data, np.asarray(expected, np.float32))
        assert gradients(y.sum(), [x])[0].dtype == np.float32


def test_lists_are_numbers_and_not_joined():
    assert ops.add([1.0, 2.0], [3.0, 4.0]).data.tolist() == [4, 6]
    assert ops.mul([1, 2], 3).data.tolist() == [3, 6]
    assert ops.matmul([[1, 2]], [[3], [4]]).data.tolist() == [[11]]
    assert ops.silu_gate([0.0], [1.0]).dtype == np.float32


def test_settings_that_are_tuples_or_lists_stay_what_they_are():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert ops.reshape(x, (3, 2)).shape == ops.reshape(x, [3, 2]).shape == (3, 2)
    assert ops.sum(x, axis=(0, 1)).item() == 15
    assert x[[1, 0]].data.tolist() == [[3, 4, 5], [0, 1, 2]]
    assert ops.embedding(x, [1, 1]).data.tolist() == [[3, 4, 5], [3, 4, 5]]


def test_concatenate_accepts_tensors_or_a_list_of_them():
    x, y = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0], requires_grad=True)
    for joined in ops.concatenate(x, y), ops.concatenate([x, y]), ops.concatenate((x, y), axis=0):
        assert joined.data.tolist() == [1, 2, 3]
        assert [g.tolist() for g in gradients((joined * joined).sum(), [x, y])] == [[2, 4], [6]]
    twice = ops.concatenate([x, x])
    assert gradients(twice.sum(), [x])[0].tolist() == [2, 2]


@pytest.mark.parametrize("compare", ["eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize(
    "other", [2, 2.0, np.float32(2), [1.0, 2.0, 4.0], np.array([1, 2, 4]), Tensor([1.0, 2.0, 4.0])], ids=repr
)
def test_comparisons_are_elementwise(compare, other):
    x = Tensor([2.0, 2.0, 3.0], requires_grad=True)
    function = getattr(operator, compare)
    plain = other.data if isinstance(other, Tensor) else np.asarray(other)
    for found, expected in (function(x, other), function(x.data, plain)), (function(other, x), function(plain, x.data)):
        assert type(found) is np.ndarray
        assert found.dtype == bool
        np.testing.assert_array_equal(found, expected)


def test_a_comparison_selects_in_where():
    x = Tensor([0.0, 2.0, 4.0], requires_grad=True)
    safe = ops.where(x == 0, 1.0, x)
    assert safe.data.tolist() == [1, 2, 4]
    assert safe.dtype == np.float32
    assert gradients((1 / safe).sum(), [x])[0].tolist() == [0, -0.25, -0.0625]
    assert x[x > 1].data.tolist() == [2, 4]


def test_tensors_are_still_keys():
    x, y = Tensor([1.0, 2.0]), Tensor([1.0, 2.0])
    assert {x: "x", y: "y"}[x] == "x"
    assert len({x, y}) == 2


INPLACE = [operator.iadd, operator.isub, operator.imul, operator.itruediv]


@pytest.mark.parametrize("function", INPLACE, ids=lambda f: f.__name__)
def test_in_place_operators_change_a_leaf_without_a_graph(function):
    w = Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    array, same, expected = w.data, w, function(w.data.copy(), np.float32(0.5))
    with no_grad():
        w = function(w, np.array([0.5, 0.5]))
    assert w is same
    assert w.data is array
    assert w.requires_grad
    assert w.dtype == np.float32
    np.testing.assert_array_equal(w.data, expected)


@pytest.mark.parametrize("function", INPLACE, ids=lambda f: f.__name__)
def test_a_leaf_that_wants_a_gradient_is_not_changed_while_recording(function):
    w = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match=r"cannot be changed in place; do it inside `with no_grad\(\):`"):
        function(w, 2.0)
    assert w.data.tolist() == [1, 2]


def test_a_sum_of_losses_is_recorded():
    w = Tensor([1.0, 2.0], requires_grad=True)
    total = start = Tensor(0.0)
    for factor in (1.0, 3.0):
        total += (w * factor).sum()
    assert start.item() == 0
    total.backward()
    assert w.grad.tolist() == [4, 4]


def test_gradient_descent_by_hand():
    w = Tensor(np.array([4.0, -2.0]), requires_grad=True)
    for _ in range(50):
        w.grad = None
        (w * w).sum().backward()
        with no_grad():
            w -= 0.1 * Tensor(w.grad)
    assert np.abs(w.data).max() < 1e-4


def test_an_integer_tensor_never_gets_a_gradient():
    x = Tensor(np.array([1, 2]))
    with pytest.raises(TypeError, match="only floating-point tensors can require gradients, got dtype int64"):
        x.requires_grad = True
    assert not x.requires_grad


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ops.softmax(x),
        lambda x: ops.cross_entropy(x, np.array([0, 2])),
        lambda x: ops.rms_norm(x, np.ones(3, np.float32)),
        lambda x: ops.silu_gate(x, x),
        lambda x: ops.sigmoid(x),
        lambda x: ops.silu(x),
        lambda x: ops.exp(x),
        lambda x: ops.mean(x),
    ],
)
def test_ops_of_integers_are_those_of_the_numbers(call):
    x = np.array([[1, 2, 3], [6, 5, 4]])
    found, expected = call(x), call(x.astype(np.float64))
    assert found.dtype.kind == "f"
    np.testing.assert_allclose(found.data, expected.data, rtol=1e-6)
