"""The Tensor class: construction, operations with Python and NumPy values, and the dtypes of the results."""

import operator

import numpy as np
import pytest

from minilora.autograd import Tensor, gradients, op, ops

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv]


@pytest.mark.parametrize("scalar", [-2.5, True, np.float64(1.5), np.int64(4)], ids=repr)
@pytest.mark.parametrize("function", OPERATORS)
def test_a_scalar_on_either_side_never_widens_float32(function, scalar):
    for shape in ((), (2, 3)):
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


@pytest.mark.parametrize("scalar", [2, np.float64(2), np.int64(2)], ids=repr)
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
        assert {y.rules[i](np.ones_like(y.data)).dtype for i, _ in y.edges} == {np.dtype(np.float32)}


def test_gradients_have_their_tensors_dtype_whatever_a_rule_returns(plant):
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = Tensor(np.ones((4, 3), np.float64), requires_grad=True)
    z = ops.linear(x, y)
    assert z.dtype == np.float64
    gx, gy = gradients(z, [x, y], np.ones((2, 4), np.float32))
    assert (gx.dtype, gy.dtype) == (np.float32, np.float64)
    (x.sum() * y.sum()).backward()
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)
    halving = plant(lambda x: (1 * x, (lambda g: g.astype(np.float16),)))
    assert [gradients(halving(t), [t], np.ones(t.shape))[0].dtype for t in (x, y)] == [np.float32, np.float64]


def test_numbers_and_lists_become_float32_and_arrays_stay_what_they_are():
    assert Tensor(3).dtype == Tensor(2.5).dtype == Tensor([[1, 2]]).dtype == np.float32
    for dtype in (np.float16, np.float64, np.int32, bool):
        array = np.zeros((2, 3), dtype)
        assert Tensor(array).data is array
    scalar = Tensor(np.float64(3))
    assert isinstance(scalar.data, np.ndarray)
    assert (scalar.dtype, scalar.shape, scalar.size, scalar.ndim) == (np.float64, (), 1, 0)


def test_what_is_no_array_of_real_numbers_is_refused():
    for dtype in (np.int64, bool, complex):
        with pytest.raises(TypeError, match="only floating-point tensors can require gradients"):
            Tensor(np.zeros(2, dtype), requires_grad=True)
    with pytest.raises(TypeError, match="got a Tensor"):
        Tensor(Tensor([1.0]))


@pytest.mark.parametrize("function", [np.exp, np.array, np.max, lambda x: np.add(np.ones(2), x)])
def test_numpy_functions_refuse_a_tensor(function):
    """They would silently drop its gradient."""
    with pytest.raises(TypeError):
        function(Tensor([1.0, 2.0], requires_grad=True))
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
        (x.transpose((1, 0, 2)), values.transpose(1, 0, 2)),
        (x.transpose(), values.T),
        (x.reshape(4, -1), values.reshape(4, -1)),
        (x.reshape((4, 6)), values.reshape(4, 6)),
        (x[1, :, ::-2], values[1, :, ::-2]),
        (list(x)[1], values[1]),
        *((getattr(x, name)(), getattr(values, name)()) for name in ("sum", "mean", "max")),
        *((getattr(x, name)((0, 2), True), getattr(values, name)((0, 2), keepdims=True)) for name in ("sum", "max")),
        (x.mean(axis=-1), values.mean(axis=-1)),
    ):
        assert isinstance(found, Tensor)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.data, expected, rtol=1e-14)
    assert len(x) == 2


def test_a_tensor_of_one_number_is_a_number():
    x = Tensor([1.5])
    assert (x.item(), float(x), f"{x:.3f}", bool(x), bool(Tensor([0.0]))) == (1.5, 1.5, "1.500", True, False)
    with pytest.raises(ValueError, match="size 1"):
        bool(Tensor([1.0, 2.0]))


def test_detach_forgets_the_history_and_shares_the_array():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * 2).detach()
    assert not y.requires_grad
    assert gradients((x * y).sum(), [x])[0].tolist() == [2, 4]
    assert x.detach().data is x.data


def test_repr_shows_the_values_and_whether_gradients_are_wanted():
    assert repr(Tensor([1.0, 2.5])) == "Tensor([1. , 2.5])"
    assert repr(Tensor([1.0], requires_grad=True)) == "Tensor([1.], requires_grad=True)"


@pytest.mark.parametrize("module", ["__main__", "notebook"])  # sorted before and after minilora
def test_an_op_of_the_package_is_not_replaced_by_one_of_the_same_name(module):
    """The operators look up their op by name, so another `mul` would change the meaning of `*`."""

    def mul(x, y):
        return x * y, (lambda g: g, lambda g: g)

    mul.__module__ = module
    with pytest.raises(ValueError, match="an op named 'mul' already exists"):
        op(mul)
    assert (Tensor([2.0]) * 3).item() == 6


def test_tensors_are_not_given_by_name():
    x, w = Tensor([[1.0, 2.0]]), Tensor([[1.0, 2.0]], requires_grad=True)
    with pytest.raises(TypeError, match=r"linear\(\) accepts tensors only as positional arguments"):
        ops.linear(x, weight=w)
