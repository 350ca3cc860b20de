"""no_grad, deep graphs, memory and threads."""

import threading
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minilora.autograd import Tensor, gradients, no_grad, ops

DEPTH = 20_000


def leaf(*values):
    return Tensor(np.array(values, dtype=np.float64), requires_grad=True)


@no_grad()
def untracked_square(x):
    with no_grad():
        assert not (x * x).requires_grad
    return x * x


def test_no_grad_records_nothing_inside_and_everything_after():
    """Nested, as a decorator that is applied at every call, and after an exception."""
    x = leaf(2.0)
    for _ in range(2):
        y = untracked_square(x)
        assert (y.requires_grad, y.edges, y.rules) == (False, (), ())
        assert (x * x).requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x * x).requires_grad


def test_no_grad_leaves_a_running_thread_alone():
    x, inside, found = leaf(2.0), threading.Event(), []

    def work():
        assert inside.wait(10)
        found.append((x * x).requires_grad)

    thread = threading.Thread(target=work)
    thread.start()
    with no_grad():
        inside.set()
        thread.join(10)
        assert not (x * x).requires_grad
    assert found == [True]


def test_backward_works_inside_no_grad():
    x = leaf(3.0)
    loss = x * x
    with no_grad():
        loss.backward()
    assert x.grad.tolist() == [6]


def test_a_very_deep_graph_works_forward_backward_and_when_dropped(without_collector):
    x = leaf(2.0)
    y = x
    for _ in range(DEPTH):
        y = -y
    bottom = weakref.ref(y.edges[0][1])
    assert gradients(y, [x])[0].tolist() == [1]
    y.backward()
    assert x.grad.tolist() == [1]
    assert bottom() is None
    z = x
    for _ in range(DEPTH):
        z = 1 - z  # without a backward pass, the entire chain is freed at once
    middle = weakref.ref(z.edges[0][1])
    del z
    assert middle() is None


def test_an_array_that_no_rule_needs_is_freed_on_the_way_forward(without_collector):
    """The rule of exp needs its output, but not its input."""
    x = leaf(*range(6))
    before = x * -3
    after = ops.exp(before)
    watched = [weakref.ref(thing.data) for thing in (before, after)]
    loss = (after * 2).sum()
    del before, after
    assert [ref() is not None for ref in watched] == [False, True]
    assert gradients(loss, [x])[0].tolist() == pytest.approx((-6 * np.exp(-3 * np.arange(6.0))).tolist())


def test_backward_frees_the_graph_although_the_loss_is_kept(without_collector):
    x = leaf(*range(6))
    middle = ops.tanh(x)
    watched = [weakref.ref(middle.node), weakref.ref(middle.data)]
    loss = (middle * middle).sum()
    del middle
    gradients(loss, [x])
    assert all(ref() is not None for ref in watched)
    loss.backward()
    assert [ref() for ref in watched] == [None, None]
    assert loss.item() > 0
    assert loss.rules == ()


def test_gradients_on_the_way_are_let_go():
    """The pass computes a hundred gradients of 800 kB, but needs only two or three at a time."""
    x = Tensor(np.ones(100_000), requires_grad=True)
    y = x
    for _ in range(100):
        y = -y
    loss = y.sum()
    tracemalloc.start()
    try:
        gradients(loss, [x])
        assert tracemalloc.get_traced_memory()[1] < 5 * x.data.nbytes
    finally:
        tracemalloc.stop()


def loss_of(parameters, ids):
    table, scale, weight, head = parameters
    x = ops.rms_norm(ops.embedding(table, ids), scale)
    heads = ops.linear(x, weight).reshape(*ids.shape, 2, 4).transpose(0, 2, 1, 3)
    x = x + ops.causal_attention(heads, heads, heads).transpose(0, 2, 1, 3).reshape(*ids.shape, 8)
    return ops.cross_entropy(ops.linear(x, head), (ids + 1) % 11)


@pytest.mark.parametrize("graphs", [1, 12], ids=["one graph", "a graph each"])
def test_threads_may_share_parameters_and_a_graph(graphs):
    rng = np.random.default_rng(0)
    parameters = [Tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((11, 8), (8,), (8, 8), (11, 8))]
    batches = [rng.integers(0, 11, (2, 9)) for _ in range(12)]
    shared = loss_of(parameters, batches[0])

    def work(ids):
        return gradients(shared if graphs == 1 else loss_of(parameters, ids), parameters)

    expected = [work(ids) for ids in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, alone in zip(pool.map(work, batches), expected, strict=True):
                assert all(np.array_equal(g, a) for g, a in zip(found, alone, strict=True))
    assert all(p.grad is None for p in parameters)
