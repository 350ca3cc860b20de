"""The Tensor itself: what it is made of, how it meets Python's and NumPy's numbers, and which dtype comes out."""

import operator

import numpy as np
import pytest

from minilora.autograd import Tensor, gradients, op, ops

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv]
SCALARS = [3, -2.5, True, np.float64(1.5), np.float32(1.5), np.int64(4), np.float16(0.5)]


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
@pytest.mark.parametrize("function", OPERATORS)
def test_a_scalar_on_either_side_never_widens_float32(function, scalar, shape):
    values = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    x = Tensor(values, requires_grad=True)
    for y, expected in (
        (function(x, scalar), function(values.astype(float), float(scalar))),
        (function(scalar, x), function(float(scalar), values.astype(float))),
    ):
        assert isinstance(y, Tensor)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y.data, expected, rtol=1e-6)
        (g,) = gradients(y, [x], np.ones(shape))
        assert (g.dtype, g.shape) == (np.float32, shape)


@pytest.mark.parametrize("scalar", [2, 2.0, np.float64(2), np.int64(2)], ids=repr)
def test_scalars_as_arguments_never_widen_float32(scalar):
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    w = Tensor(np.ones(3, np.float32), requires_grad=True)
    fraction = scalar / 4
    outputs = [
        x**scalar,
        ops.where(np.array([True, False, True]), x, scalar),
        ops.where(np.array([True, False, True]), scalar, x),
        ops.rms_norm(x, w, fraction),
        ops.rms_norm(x, w, eps=fraction),
        ops.dropout(x, fraction, np.random.default_rng(0)),
        ops.dropout(x, probability=fraction, rng=np.random.default_rng(0)),
    ]
    for y in outputs:
        assert y.dtype == np.float32
        assert [rule_output_dtype(y, i) for i, _ in y.edges] == [np.float32] * len(y.edges)


def rule_output_dtype(y, i):
    return y.rules[i](np.ones_like(y.data)).dtype


def test_gradients_have_their_tensors_dtype_when_precisions_mix():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = Tensor(np.ones((4, 3), np.float64), requires_grad=True)
    z = ops.linear(x, y)
    assert z.dtype == np.float64
    gx, gy = gradients(z, [x, y], np.ones((2, 4), np.float32))
    assert (gx.dtype, gy.dtype) == (np.float32, np.float64)
    (x.sum() * y.sum()).backward()
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)


@pytest.mark.parametrize("tensor", [np.float32, np.float64])
@pytest.mark.parametrize("rule", [np.float16, np.float32, np.float64])
def test_a_gradient_takes_its_tensors_dtype_whatever_a_rule_returns(plant, tensor, rule):
    @plant
    def identity(x):
        return 1 * x, (lambda g: g.astype(rule),)

    x = Tensor(np.ones(3, tensor), requires_grad=True)
    (g,) = gradients(identity(x), [x], np.array([1, 2, 3]))
    assert g.dtype == tensor
    assert g.tolist() == [1, 2, 3]


def test_a_cotangent_takes_the_outputs_dtype():
    y = Tensor(np.ones(2, np.float32), requires_grad=True) * 2
    for cotangent in ([1, 2], np.array([1, 2]), np.array([1.0, 2.0]), Tensor(np.array([1.0, 2.0]))):
        assert gradients(y, [y], cotangent)[0].dtype == np.float32


def test_numbers_and_lists_become_float32_and_arrays_stay_what_they_are():
    assert Tensor(3).dtype == Tensor(2.5).dtype == Tensor([[1, 2]]).dtype == np.float32
    for dtype in (np.float16, np.float32, np.float64, np.int32, np.int64, bool):
        array = np.zeros((2, 3), dtype)
        assert Tensor(array).data is array
    scalar = Tensor(np.float64(3))
    assert isinstance(scalar.data, np.ndarray)
    assert (scalar.dtype, scalar.shape, scalar.size, scalar.ndim) == (np.float64, (), 1, 0)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, complex])
def test_only_real_floating_point_tensors_have_gradients(dtype):
    with pytest.raises(TypeError, match="only floating-point tensors have gradients"):
        Tensor(np.zeros(2, dtype), requires_grad=True)


def test_a_tensor_of_a_tensor_is_refused():
    with pytest.raises(TypeError, match="got a Tensor"):
        Tensor(Tensor([1.0]))


@pytest.mark.parametrize(
    "function",
    [
        np.exp,
        np.asarray,
        np.array,
        np.sum,
        np.max,
        np.transpose,
        np.linalg.norm,
        lambda x: np.add(np.ones(2), x),
        lambda x: np.array([x, x]),
        lambda x: np.concatenate([x, x]),
    ],
)
def test_numpy_functions_refuse_a_tensor(function):
    """They would drop its gradient without a word."""
    with pytest.raises(TypeError):
        function(Tensor([1.0, 2.0], requires_grad=True))


def test_the_refusal_says_what_to_do():
    with pytest.raises(TypeError, match=r"use a minilora op, or \.data"):
        np.asarray(Tensor([1.0]))


@pytest.mark.parametrize("function", [*OPERATORS, operator.matmul])
def test_an_array_on_either_side_gives_a_tensor(function):
    rng = np.random.default_rng(1)
    array, values = rng.uniform(1, 2, (3, 3)), rng.uniform(1, 2, (3, 3))
    x = Tensor(values, requires_grad=True)
    for y, expected in ((function(array, x), function(array, values)), (function(x, array), function(values, array))):
        assert isinstance(y, Tensor)
        np.testing.assert_allclose(y.data, expected, rtol=1e-14)
        assert [edge for _, edge in y.edges] == [x]


def test_operators_and_methods_are_the_ops():
    values = np.random.default_rng(2).uniform(1, 2, (2, 3, 4))
    x = Tensor(values)
    for found, expected in (
        (-x, -values),
        (x**2, values**2),
        (x.T, values.T),
        (x.transpose(1, 0, 2), values.transpose(1, 0, 2)),
        (x.transpose(), values.T),
        (x.reshape(4, -1), values.reshape(4, -1)),
        (x.sum(axis=(0, 2)), values.sum(axis=(0, 2))),
        (x.sum(axis=1, keepdims=True), values.sum(axis=1, keepdims=True)),
        (x.mean(axis=-1, keepdims=True), values.mean(axis=-1, keepdims=True)),
        (x.max(axis=(0, 2)), values.max(axis=(0, 2))),
        (x.max(axis=1, keepdims=True), values.max(axis=1, keepdims=True)),
        (x.sum(), values.sum()),
        (x.mean(), values.mean()),
        (x.max(), values.max()),
        (x[1, :, ::-2], values[1, :, ::-2]),
        (list(x)[1], values[1]),
    ):
        assert isinstance(found, Tensor)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.data, expected, rtol=1e-14)
    assert len(x) == 2
    assert Tensor([2.5]).item() == 2.5


def test_detach_forgets_the_history_and_shares_the_array():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * 2).detach()
    assert not y.requires_grad
    assert gradients((x * y).sum(), [x])[0].tolist() == [2, 4]
    assert x.detach().data is x.data


def test_repr_shows_the_values_and_whether_gradients_are_wanted():
    assert repr(Tensor([1.0, 2.5])) == "Tensor([1. , 2.5])"
    assert repr(Tensor([1.0], requires_grad=True)) == "Tensor([1.], requires_grad=True)"


@pytest.mark.parametrize("module", ["__main__", "notebook"])
def test_an_op_of_the_package_is_not_replaced_by_one_of_the_same_name(module):
    """The operators find their op by name: another `mul` would change what * means."""

    def mul(x, y):
        return x * y, (lambda g: g, lambda g: g)

    mul.__module__ = module
    with pytest.raises(ValueError, match="there is an op 'mul' already"):
        op(mul)
    assert (Tensor([2.0]) * 3).item() == 6


def test_tensors_are_not_given_by_name():
    x, w = Tensor([[1.0, 2.0]]), Tensor([[1.0, 2.0]], requires_grad=True)
    with pytest.raises(TypeError, match="linear takes its tensors by position"):
        ops.linear(x, weight=w)


def test_a_tensor_of_one_number_is_a_number():
    x = Tensor([1.5])
    assert (float(x), f"{x:.3f}", bool(x), bool(Tensor([0.0]))) == (1.5, "1.500", True, False)
    with pytest.raises(ValueError, match="size 1"):
        bool(Tensor([1.0, 2.0]))


def test_shapes_may_be_tuples():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert x.reshape((3, 2)).shape == x.reshape(3, 2).shape == x.transpose((1, 0)).shape == x.T.shape == (3, 2)
