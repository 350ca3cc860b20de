"""The engine: which gradients arrive where, and what is refused. `test_lifetime.py` has memory and threads."""

import functools

import numpy as np
import pytest

from minilora.autograd import Tensor, gradients, no_grad, ops


def leaf(*values):
    return Tensor(np.array(values, dtype=np.float64), requires_grad=True)


def test_gradients_stores_nothing_and_agrees_with_backward():
    x, y = leaf(2.0, 3.0), leaf(5.0, 7.0)
    loss = (x * y * y).sum()
    first = gradients(loss, [x, y])
    assert x.grad is None
    assert y.grad is None
    assert [g.tolist() for g in first] == [[25, 49], [20, 42]]
    assert [g.tolist() for g in gradients(loss, [y, x])] == [[20, 42], [25, 49]]  # the graph is still there
    loss.backward()
    assert [x.grad.tolist(), y.grad.tolist()] == [[25, 49], [20, 42]]


def test_backward_accumulates_over_losses():
    x = leaf(2.0, 3.0)
    (x * x).sum().backward()
    (5 * x).sum().backward()
    assert x.grad.tolist() == [4 + 5, 6 + 5]
    x.grad = None
    (7 * x).sum().backward()
    assert x.grad.tolist() == [7, 7]


def test_every_use_of_a_tensor_counts():
    x = leaf(2.0, 3.0)
    cotangent = np.array([1.0, 10.0])
    for output, slope in (
        (x + x, [2, 2]),
        (x - x, [0, 0]),
        (x * x, [4, 6]),
        (x * x * x, [12, 27]),
        (x + x + x + x + x, [5, 5]),
        (ops.concatenate(x, x, x).reshape(3, 2).sum(axis=0), [3, 3]),
    ):
        assert gradients(output, [x], cotangent)[0].tolist() == (slope * cotangent).tolist()


def test_diamonds_sum_over_all_paths():
    x = y = leaf(2.0)
    for _ in range(10):  # each level doubles the number of paths: 1,024 in all
        y = 2 * y + 3 * y
    assert gradients(y, [x], np.ones(1))[0].tolist() == [5.0**10]


def test_gradients_arrive_whole_however_long_the_detour():
    """A tensor must not be pulled back before the gradient that comes the long way round has arrived."""
    x = leaf(3.0)
    middle = x * x
    long_way = middle
    for _ in range(50):
        long_way = long_way + 0.0
    loss = middle * long_way  # x⁴
    assert gradients(loss, [x, middle], np.ones(1)) == [[4 * 27], [2 * 9]]


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (2, 1), (1, 1, 1), (2, 3), (4, 1, 3), (4, 2, 1)])
def test_a_gradient_is_summed_back_to_the_shape_before_broadcasting(shape):
    x = Tensor(np.random.default_rng(0).standard_normal(shape), requires_grad=True)
    factor = np.random.default_rng(1).standard_normal((4, 2, 3))
    cotangent = np.random.default_rng(2).standard_normal((4, 2, 3))
    y = x * factor
    (found,) = gradients(y, [x], cotangent)
    whole = np.broadcast_to(np.zeros(shape), (4, 2, 3))
    expected = np.zeros(shape)
    for place in np.ndindex(whole.shape):
        source = tuple(min(i, n - 1) for i, n in zip(place[3 - len(shape) :], shape, strict=True))
        expected[source] += factor[place] * cotangent[place]
    assert isinstance(found, np.ndarray)
    assert found.shape == shape
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_gradients_of_single_numbers_are_arrays():
    x = Tensor(np.array(3.0), requires_grad=True)
    for loss in (x + x, x * x * x, x + 1, -x, x.sum() + x.mean(), x):
        (g,) = gradients(loss, [x])
        assert isinstance(g, np.ndarray)
        assert g.shape == ()
        x.grad = None
        loss.backward()
        assert isinstance(x.grad, np.ndarray)
        assert x.grad == g
    (g,) = gradients(x, [x], np.float64(7))
    assert isinstance(g, np.ndarray)
    assert g == 7


def test_gradient_arrays_never_alias_each_other():
    x, y, z = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0)
    cotangent = np.array([1.0, 1.0])
    (x + y + z.reshape(2)).backward(cotangent)  # an addition hands one array to both sides
    found = [x.grad, y.grad, z.grad, *gradients(x + y, [x, y, x], cotangent)]
    for i, g in enumerate(found):
        g += 10 * (i + 1)
    assert [g.tolist() for g in found[:5]] == [[11 + 10 * i] * 2 for i in range(5)]
    assert cotangent.tolist() == [1, 1]
    (x + y).sum().backward()
    assert [x.grad.tolist(), y.grad.tolist(), z.grad.tolist()] == [[12, 12], [22, 22], [31, 31]]


def test_gradient_arrays_can_be_written_to():
    x = leaf(1.0, 2.0, 3.0)
    x.sum().backward()  # the rule of a sum gives a read-only broadcast
    x.grad *= 2
    (g,) = gradients(x.sum(), [x])
    g *= 2
    assert x.grad.tolist() == g.tolist() == [2, 2, 2]


def test_unconnected_tensors_get_zeros_of_their_shape_and_dtype():
    x, other = leaf(1.0), Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    frozen = Tensor(np.ones(1))
    [g] = gradients(x * frozen, [other])
    assert (g.shape, g.dtype) == (other.shape, other.dtype)
    assert (g == 0).all()
    with pytest.raises(ValueError, match="a frozen one has no edge to follow"):
        gradients(x * frozen, [frozen])
    with pytest.raises(TypeError, match=r"expects a list of tensors"):
        gradients(x * frozen, x)
    (x * frozen).backward()
    assert other.grad is None
    assert frozen.grad is None


def test_intermediate_tensors_and_the_output_itself_can_be_asked_for():
    x = leaf(2.0, 3.0)
    middle = x * x
    loss = (middle * middle).sum()
    found = gradients(loss, [middle, loss, x, middle])
    assert [g.tolist() for g in found] == [[8, 18], 1, [32, 108], [8, 18]]
    loss.backward()
    assert middle.grad is None  # only leaves keep what backward brings


def test_a_leaf_is_its_own_graph():
    x = leaf(4.0)
    x.backward()
    x.backward()
    assert x.grad.tolist() == [2]


def test_cotangents_weigh_the_outputs():
    x = leaf(2.0, 3.0)
    for cotangent in ([1, 10], np.array([1, 10]), np.array([1, 10], np.float32), Tensor(np.array([1.0, 10.0]))):
        (g,) = gradients(x * x, [x], cotangent)
        assert g.tolist() == [4, 60]
        assert g.dtype == np.float64


@pytest.mark.parametrize("shape", [(), (3,), (2, 1), (1, 2)])
def test_a_cotangent_of_another_shape_is_refused(shape):
    x = leaf(2.0, 3.0)
    for call in (lambda c: gradients(x * x, [x], c), (x * x).backward):
        with pytest.raises(ValueError, match=r"cotangent of shape \(2,\), the output's, got "):
            call(np.ones(shape))
    assert x.grad is None


def test_anything_but_one_number_needs_a_cotangent():
    x = leaf(2.0, 3.0)
    for y, shape in ((x * x, r"\(2,\)"), (x[:0], r"\(0,\)")):
        for call in (functools.partial(gradients, y, [x]), y.backward):
            with pytest.raises(ValueError, match=rf"expected a scalar .* got shape {shape}; pass a cotangent"):
                call()
    assert gradients((x * x)[:1].reshape(1, 1), [x])[0].tolist() == [4, 0]  # one number of any shape will do


def test_an_output_that_depends_on_nothing_is_refused():
    with pytest.raises(ValueError, match="depends on something with requires_grad=True"):
        Tensor([1.0]).backward()
    with no_grad():
        y = leaf(1.0) * 2
    with pytest.raises(ValueError, match="depends on something with requires_grad=True"):
        gradients(y, [])


def test_gradients_of_gradients_are_declined():
    x = leaf(2.0)
    with pytest.raises(ValueError, match="gradients of gradients are not offered"):
        gradients(x * x, [x], cotangent=leaf(1.0))


def test_a_second_backward_says_what_to_do():
    x = leaf(2.0)
    loss = x * x
    loss.backward()
    for call in (loss.backward, lambda: gradients(loss, [x])):
        with pytest.raises(
            RuntimeError, match=r"freed by an earlier backward\(\); compute the loss again, or use grad"
        ):
            call()
    assert x.grad.tolist() == [4]


def test_a_failing_backward_through_a_shared_part_accumulates_nothing():
    x, y = leaf(2.0), leaf(3.0)
    shared = x * x
    first, second = shared * 5, shared * y + y
    first.backward()
    with pytest.raises(RuntimeError, match="freed by an earlier backward"):
        second.backward()
    assert x.grad.tolist() == [20]
    assert y.grad is None


def test_a_frozen_input_is_no_edge_and_its_rule_is_never_called(plant):
    def forbidden(g):
        raise AssertionError("the rule of a frozen input was called")

    @plant
    def half_forbidden(x, y):
        return x * y, (lambda g: g * y, forbidden)

    x, frozen = leaf(2.0), Tensor(np.array([3.0]))
    y = half_forbidden(x, frozen)
    assert y.edges == ((0, x),)
    assert gradients(y, [x])[0].tolist() == [3]
    y.backward()
    assert x.grad.tolist() == [3]
    with pytest.raises(AssertionError, match="frozen input was called"):
        gradients(half_forbidden(x, leaf(3.0)), [x])


@pytest.mark.parametrize(
    ("rule", "shape", "message"),
    [
        (lambda g: g.T, (2, 3), r"gradient of shape \(3, 2\) for an input of shape \(2, 3\)"),
        (lambda g: g.sum(), (3,), r"gradient of shape \(\) for an input of shape \(3,\)"),
        (lambda g: g[0], (1, 3), r"gradient of shape \(3,\) for an input of shape \(1, 3\)"),
        (lambda g: g[0, 0], (1, 1, 3), r"gradient of shape \(3,\) for an input of shape \(1, 1, 3\)"),
    ],
)
def test_a_rule_whose_gradient_has_a_wrong_shape_is_named(plant, rule, shape, message):
    @plant
    def identity(x):
        return 1 * x, (rule,)

    x = Tensor(np.ones(shape), requires_grad=True)
    with pytest.raises(ValueError, match=message):
        gradients(identity(x), [x], np.ones(shape))
