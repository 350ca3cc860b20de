"""The stand-in rejects what CuPy rejects or lacks; otherwise it would prove nothing."""

import numpy as np
import pytest

from minilora.autograd import OPS, Tensor, gradients
from minilora.backend import array_module, device_of
from tests.gpu.standin import DeviceArray

HOST = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def card(cupy):
    return cupy.asarray(HOST)


REFUSED = {
    "implicit conversion": lambda x: np.asarray(x),
    "a host array on the right": lambda x: x + HOST,
    "a host array on the left": lambda x: HOST * x,
    "a host array in place": lambda x: x.__iadd__(HOST),
    "the card's array into the host's": lambda x: np.add(x, x, out=HOST.copy()),
    "a host array in a function": lambda x: np.concatenate([x, HOST]),
    "a host array as an index": lambda x: x[np.array([0, 1])],
    "a list as an index": lambda x: x[[0, 1]],
    "assignment of a host array": lambda x: x.__setitem__(0, HOST[0]),
    "einsum with out": lambda x: np.einsum("ij->i", x, out=x[:, 0]),
    "max with initial": lambda x: np.max(x, initial=0),
    "the method max with initial": lambda x: x.max(initial=0),
    "a key of several parts in add.at": lambda x: np.add.at(x, (0, 0), x[0, 0]),
    "a reduction by its ufunc": lambda x: np.maximum.reduce(x),
    "a function that CuPy lacks": lambda x: np.block([x, x]),
    "an empty shape": lambda x: np.zeros_like(x, shape=()),
    "NumPy's functions without a protocol": lambda x: np.ascontiguousarray(x),
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED)
def test_it_refuses(card, attempt):
    with pytest.raises(TypeError):
        attempt(card)


def test_it_computes_what_numpy_computes(card):
    for compute in (lambda x: x @ x.T, lambda x: 2 * x - x / 3, lambda x: x[:, 1:].sum(axis=0), lambda x: -x.max()):
        found = compute(card)
        assert isinstance(found, DeviceArray)
        np.testing.assert_array_equal(found.get(), compute(HOST), strict=False)
    assert array_module(card).__name__ == "cupy"
    assert (device_of(card), device_of(HOST)) == ("cuda", "cpu")


def test_views_share_their_memory_and_copies_to_the_card_do_not(card):
    card[0][...] = 7
    assert (card.get()[0] == 7).all()
    assert (HOST[0] == [0, 1, 2]).all()


FALLBACKS = {
    "in the value": (lambda x: np.exp(np.asarray(x)), lambda g: g),
    "in the gradient": (lambda x: x * 2, lambda g: np.asarray(g) * 2),
    "an answer of the host's": (lambda x: x * 2, lambda g: g * np.full(g.shape, 2, dtype=np.float32)),
}


@pytest.mark.parametrize(("value", "pull"), FALLBACKS.values(), ids=FALLBACKS)
def test_a_fallback_in_an_op_is_found(card, monkeypatch, value, pull):
    """Each of these ops is correct on NumPy, but would be slow or fail on a GPU."""
    monkeypatch.setattr("minilora.autograd.tensor.OPS", dict(OPS))
    from minilora.autograd import op

    @op
    def planted(x):
        return value(x), (pull,)

    def run(array):
        x = Tensor(array, requires_grad=True)
        return gradients(planted(x).sum(), [x])

    run(HOST)
    with pytest.raises(TypeError):
        run(card)
