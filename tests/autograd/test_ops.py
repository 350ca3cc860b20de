"""Requirements for every op. The tests iterate over `OPS`; `conftest.py` has a strategy for each op.

Rules are compared with finite differences in float64 (gradcheck: random cotangents, relative error below 1e-7). The
drawn cases include 0-d arrays, axes of length 1, broadcasting, repeated indices and several attention blocks.
"""

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.autograd import OPS, Tensor, gradcheck, gradients

each_op = pytest.mark.parametrize("name", sorted(OPS))
cases = st.data()
several = settings(max_examples=30, deadline=None, derandomize=True)
few = settings(max_examples=10, deadline=None, derandomize=True)


def leaves(arrays):
    return [Tensor(x, requires_grad=True) for x in arrays]


def cotangent_of(output):
    return np.asarray(np.random.default_rng(0).standard_normal(output.shape), dtype=output.dtype)


def value_and_gradients(function, arrays):
    inputs = leaves(arrays)
    output = function(*inputs)
    return [output.data, *gradients(output, inputs, cotangent_of(output))]


def apart(found, expected):
    """The largest difference, relative to the largest expected value or 1, since a zero gradient is only rounding."""
    return np.max(np.abs(found - expected), initial=0) / np.max(np.abs(expected), initial=1)


def test_every_op_has_a_strategy_and_every_strategy_an_op(strategies):
    assert set(OPS) - set(strategies) == set(), "ops without a strategy in conftest.py"
    assert set(strategies) - set(OPS) == set(), "strategies for ops that do not exist"


@each_op
@several
@given(data=cases)
def test_value_and_rules_are_right_and_nothing_is_recorded_without_gradients(draw_case, name, data):
    case = draw_case(data, name)
    output = case.function(*map(Tensor, case.arrays))
    assert (output.requires_grad, output.edges, output.rules) == (False, (), ())
    expected = case.expected(*case.arrays)
    assert output.shape == np.shape(expected)
    assert np.linalg.norm(output.data - expected) <= 1e-13 * np.linalg.norm(expected)
    assert gradcheck(case.function, case.arrays, np.random.default_rng(0)) < 1e-7


@each_op
@several
@given(data=cases)
def test_float32_stays_float32(draw_case, name, data):
    """In the output, the gradients, the results of rules before the engine casts them, and the arrays that rules keep.

    Arrays kept in float64 would cost twice the memory and time without any effect on the results.
    """
    case = draw_case(data, name)
    exact = value_and_gradients(case.function, case.arrays)
    arrays = [x.astype(np.float32) for x in case.arrays]
    found = value_and_gradients(case.function, arrays)
    for value, reference in zip(found, exact, strict=True):
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.float32
        assert apart(value, reference) < 2e-5
    output = case.function(*leaves(arrays))
    g = cotangent_of(output)
    pulled = output.rules(g) if callable(output.rules) else [rule(g) for rule in output.rules if rule]
    assert [gx.dtype for gx in pulled] == [np.float32] * len(arrays)
    assert [x for x in kept(output.rules) if x.dtype == np.float64] == []


def kept(thing):
    """Every array and NumPy scalar that a rule, or a tuple of rules, refers to."""
    if isinstance(thing, np.ndarray | np.generic):
        return [thing]
    cells = getattr(thing, "__closure__", None) or ()
    parts = thing if isinstance(thing, list | tuple) else [cell.cell_contents for cell in cells]
    return [x for part in parts for x in kept(part)]


def test_kept_finds_what_is_nested():
    x, y = np.float64(1), np.float64(2)
    assert kept((lambda g: g * x, None, [lambda g: lambda: g * y])) == [1, 2]


@each_op
@several
@given(data=cases)
def test_layout_in_memory_makes_no_difference(draw_case, name, data):
    case = draw_case(data, name)
    value, *expected = value_and_gradients(case.function, case.arrays)
    inputs = leaves(case.arrays)
    output = case.function(*inputs)
    for layout in (fortran, every_second, backwards):
        found = value_and_gradients(case.function, [layout(x) for x in case.arrays])
        found += gradients(output, inputs, layout(cotangent_of(output)))
        for x, reference in zip(found, [value, *expected, *expected], strict=True):
            assert x.shape == reference.shape
            assert apart(x, reference) < 1e-13


def fortran(x):
    return x.copy(order="F")


def every_second(x):
    """The same values as a view of an array twice as long along each axis."""
    roomy = np.full([2 * n for n in x.shape], np.nan, dtype=x.dtype)
    view = roomy[(slice(None, None, 2),) * x.ndim] if x.ndim else roomy
    view[...] = x
    return view


def backwards(x):
    """The same values as a view with negative strides."""
    reverse = (slice(None, None, -1),) * x.ndim
    return x[reverse].copy()[reverse] if x.ndim else x


@each_op
@few
@given(data=cases)
def test_a_frozen_input_is_no_edge_and_changes_no_other_gradient(draw_case, name, data):
    case = draw_case(data, name)
    _, *together = value_and_gradients(case.function, case.arrays)
    for i, expected in enumerate(together):
        inputs = [Tensor(x, requires_grad=i == j) for j, x in enumerate(case.arrays)]
        output = case.function(*inputs)
        assert [x for _, x in output.edges] == [inputs[i]]
        [found] = gradients(output, [inputs[i]], cotangent_of(output))
        assert np.array_equal(found, expected)


@pytest.mark.usefixtures("without_collector")
@each_op
@few
@given(data=cases)
def test_a_dropped_graph_is_freed_at_once(draw_case, name, data):
    """A reference cycle through the rules would keep arrays until the garbage collector runs."""
    case = draw_case(data, name)
    inputs = leaves([x.copy() for x in case.arrays])
    output = case.function(*inputs)
    watched = [weakref.ref(x) for x in (output, output.data, *inputs, *(x.data for x in inputs))]
    gradients(output, inputs, cotangent_of(output))
    del output, inputs
    assert [ref() for ref in watched] == [None] * len(watched)
