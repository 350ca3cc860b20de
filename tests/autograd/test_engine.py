"""The engine: gradients and rejected calls. Memory and threads are tested in `test_lifetime.py`."""

import numpy as np
import pytest

from minilora.autograd import Tensor, gradients, no_grad


def leaf(*values):
    return Tensor(np.array(values, dtype=np.float64), requires_grad=True)


def test_gradients_arrive_over_every_path_and_whole_however_long_the_detour():
    """The engine must not visit a tensor before the gradient over the longest path has arrived."""
    x = y = leaf(2.0)
    assert gradients(x * x * x + x + x, [x])[0].tolist() == [12 + 2]
    for _ in range(10):  # each level doubles the number of paths: 1,024 in all
        y = 2 * y + 3 * y
    assert gradients(y, [x], np.ones(1))[0].tolist() == [5.0**10]
    long_way = middle = x * x
    for _ in range(50):
        long_way = long_way + 0.0
    assert gradients(middle * long_way, [x, middle], np.ones(1)) == [[4 * 8], [2 * 4]]  # x⁴


def test_gradients_of_single_numbers_are_arrays():
    x = Tensor(np.array(3.0), requires_grad=True)
    for loss in (x + x, x * x * x, x.sum() + x.mean(), x):
        (g,) = gradients(loss, [x])
        x.grad = None
        loss.backward()
        for found in (g, x.grad):
            assert isinstance(found, np.ndarray)
            assert found.shape == ()
        assert x.grad == g
    assert isinstance(gradients(x, [x], np.float64(7))[0], np.ndarray)


def test_gradient_arrays_can_be_written_to_and_never_alias_each_other():
    x, y, z = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0)
    cotangent = np.array([1.0, 1.0])
    (x + y + z.reshape(2)).backward(cotangent)  # addition passes the same array to both inputs
    found = [x.grad, y.grad, z.grad, *gradients(x + y, [x, y, x], cotangent)]
    for i, g in enumerate(found):
        g += 10 * (i + 1)
    assert [g.tolist() for g in found[:5]] == [[11 + 10 * i] * 2 for i in range(5)]
    assert cotangent.tolist() == [1, 1]
    (x + y).sum().backward()  # the rule of a sum returns a read-only broadcast
    x.grad *= 2
    assert [x.grad.tolist(), y.grad.tolist(), z.grad.tolist()] == [[24, 24], [22, 22], [31, 31]]


def test_unconnected_tensors_get_zeros_of_their_shape_and_dtype():
    x, other = leaf(1.0), Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    frozen = Tensor(np.ones(1))
    [g] = gradients(x * frozen, [other])
    assert (g.shape, g.dtype) == (other.shape, other.dtype)
    assert (g == 0).all()
    with pytest.raises(ValueError, match="a frozen tensor is not part of the graph"):
        gradients(x * frozen, [frozen])
    with pytest.raises(TypeError, match=r"gradients\(\) expects a list of tensors"):
        gradients(x * frozen, x)
    (x * frozen).backward()
    assert other.grad is frozen.grad is None


def test_intermediate_tensors_and_the_output_itself_can_be_asked_for():
    x = leaf(2.0, 3.0)
    middle = x * x
    loss = (middle * middle).sum()
    found = gradients(loss, [middle, loss, x, middle])
    assert [g.tolist() for g in found] == [[8, 18], 1, [32, 108], [8, 18]]
    loss.backward()
    assert middle.grad is None  # backward stores gradients only in leaves


def test_cotangents_weigh_the_outputs_and_take_their_dtype():
    for dtype in (np.float32, np.float64):
        x = Tensor(np.array([2, 3], dtype), requires_grad=True)
        y = x * x
        for cotangent in ([1, 10], np.array([1, 10]), np.array([1, 10], np.float32), Tensor(np.array([1.0, 10.0]))):
            gx, gy = gradients(y, [x, y], cotangent)
            assert gx.tolist() == [4, 60]
            assert gx.dtype == gy.dtype == dtype


def test_a_refused_cotangent_leaves_the_graph_whole():
    x = leaf(2.0, 3.0)
    y = x * x
    for shape in ((), (3,), (2, 1), (1, 2)):
        for call in (lambda c: gradients(y, [x], c), y.backward):
            with pytest.raises(ValueError, match=r"cotangent of the output's shape \(2,\), got "):
                call(np.ones(shape))
    with pytest.raises(ValueError, match="second derivatives are not supported"):
        gradients(y, [x], cotangent=leaf(1.0, 1.0))
    assert x.grad is None
    y.backward(np.ones(2))
    assert x.grad.tolist() == [4, 6]


def test_anything_but_one_number_needs_a_cotangent():
    x = leaf(2.0, 3.0)
    for y, shape in ((x * x, r"\(2,\)"), (x[:0], r"\(0,\)")):
        with pytest.raises(ValueError, match=rf"expected a scalar .* got shape {shape}; pass a cotangent"):
            y.backward()
    assert gradients((x * x)[:1].reshape(1, 1), [x])[0].tolist() == [4, 0]  # a single element of any shape is enough


def test_an_output_that_depends_on_nothing_is_refused():
    with no_grad():
        y = leaf(1.0) * 2
    for call in (Tensor([1.0]).backward, lambda: gradients(y, [])):
        with pytest.raises(ValueError, match="depends on a tensor with requires_grad=True"):
            call()


def test_a_graph_that_was_freed_is_refused_in_part_and_whole_and_nothing_accumulates():
    x, y = leaf(2.0), leaf(3.0)
    shared = x * x
    first, second = shared * 5, shared * y + y
    first.backward()
    for call in (first.backward, lambda: gradients(first, [x]), second.backward):
        with pytest.raises(RuntimeError, match=r"freed by an earlier backward\(\); recompute the loss, or use gra"):
            call()
    assert x.grad.tolist() == [20]
    assert y.grad is None


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
