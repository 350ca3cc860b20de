"""The values that a case draws, and its comparisons."""

import re

import numpy as np
import pytest
from hypothesis import given, strategies

from minilora.laws.kit.case import Broken, Case


class Fixed:
    """Replaces Hypothesis's data for one case: the seed, whether values are real (not integers), then sizes."""

    def __init__(self, *values):
        self.values = list(values)

    def draw(self, strategy):
        return self.values.pop(0)


def case(bound=1e-12, dtype="float64", real=True, seed=0):
    return Case(Fixed(seed, real), dtype, bound)


@given(strategies.data(), strategies.sampled_from(["float64", "float32"]))
def test_arrays_are_of_unit_scale_and_without_zeros(data, dtype):
    drawn = Case(data, dtype, 0)
    x = drawn.array("x", 40, 5)
    assert x.shape == (40, 5)
    assert x.dtype == dtype
    assert np.all(x != 0)
    assert 0.5 < np.sqrt(np.mean(x**2)) < 3
    assert drawn.whole_numbers == bool(np.all(x == np.round(x)))
    assert drawn.drawn["x"] is x
    assert isinstance(drawn.number("a"), float)
    assert drawn.drawn["a"] != 0
    assert 0.5 <= drawn.number("b", positive=True) <= 8


def test_numbers_are_of_both_signs_unless_they_should_be_positive():
    assert set(case(real=False).array("x", 1000)) == {-3, -2, -1, 1, 2, 3}
    for real in (True, False):
        assert {np.sign(case(real=real, seed=s).number("a")) for s in range(20)} == {-1, 1}
    assert {case(real=False, seed=s).number("a", positive=True) for s in range(100)} == set(range(1, 9))
    positive = [case(seed=s).number("a", positive=True) for s in range(200)]
    assert 0.5 <= min(positive) < 1
    assert 7 < max(positive) <= 8


def test_the_same_seed_draws_the_same():
    assert np.array_equal(case().array("x", 5), case().array("x", 5))
    assert not np.array_equal(case().array("x", 5), case(seed=1).array("x", 5))


@given(strategies.data())
def test_sizes_and_choices(data):
    drawn = Case(data, "float64", 0)
    assert drawn.size("n", 2, 4) in (2, 3, 4)
    assert drawn.choice("p", ["a", "b"]) in ("a", "b")
    assert drawn.drawn.keys() == {"n", "p"}


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [([3.0], [3.0], 0), ([3.0, 0.1], [3.0, 0.4], 0.1), ([0.1], [0.4], 0.3), ([-8.0], [-10.0], 0.2), ([], [], 0)],
)
def test_errors_are_relative_to_the_largest_entry_or_to_1_and_the_worst_is_kept(got, want, error):
    tried = case(bound=0.5)
    tried.equal("h", got, want)
    tried.equal("h", [1.0], [1.0])
    assert tried.worst == pytest.approx(error)


def test_the_bound_is_within_and_anything_more_is_not():
    case(bound=0.25).equal("h", [4.0, 3.0], [4.0, 4.0])
    with pytest.raises(Broken, match=r"h should be \[4\., 4\.\], got \[4\., 2\.\]\nerror 0.5, bound 0.25") as caught:
        case(bound=0.25).equal("h", [4.0, 2.0], [4.0, 4.0])
    assert caught.value.error == 0.5


@pytest.mark.parametrize(
    ("got", "want", "says"),
    [
        ([np.nan], [1.0], "h should be"),
        ([np.inf], [1.0], "h should be"),
        ([[1, 1]], [1], "h should have shape (1,), got (1, 2)"),
        ([1], [[1, 1]], "h should have shape (1, 2), got (1,)"),
    ],
)
def test_another_shape_and_what_is_not_finite_are_no_rounding_errors(got, want, says):
    with pytest.raises(Broken, match=re.escape(says)) as caught:
        case(bound=1e9).equal("h", got, want)
    assert caught.value.error == np.inf


def test_differences_are_taken_in_double_precision():
    """float16 would overflow, and integers would wrap around."""
    with pytest.raises(Broken) as caught:
        case().equal("h", np.array([0], dtype=np.uint8), np.array([1], dtype=np.uint8))
    assert caught.value.error == 1


def test_the_same_bits():
    tried = case(bound=0)
    tried.same("W", np.array([1.0, np.nan]), np.array([1.0, np.nan]))
    tried.same("ids", np.arange(3), np.arange(3))
    assert tried.worst == 0


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        (1 + 2.3e-16, 1.0, 2.2e-16),
        (0.0, -0.0, 5e-324),
        (True, False, 1),
        (np.float32(1), 1.0, np.inf),
        ([1.0], 1.0, np.inf),
        (1.0, [1.0], np.inf),
    ],
)
def test_other_bits(got, want, error):
    with pytest.raises(Broken, match="W should be") as caught:
        case(bound=0).same("W", got, want)
    assert caught.value.error == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize(("got", "want"), [(0.1, np.nextafter(0.1, 1)), (np.nextafter(0.1, 1), 0.1)])
def test_bits_are_told_apart_in_the_message(got, want):
    """Both values are printed with enough digits to tell them apart."""
    with pytest.raises(Broken, match=r"W should be exactly (.*)0\.1(?!0)") as caught:
        case(bound=0).same("W", got, want)
    assert "0.10000000000000002" in str(caught.value)


def test_at_most():
    tried = case(bound=0.1)
    tried.at_most("distance", 2.0, 3.0)
    assert tried.worst == 0
    tried.at_most("distance", 10.5, 10.0)
    assert tried.worst == pytest.approx(0.05)
    tried.at_most("distance", 0.27, 0.2)
    assert tried.worst == pytest.approx(0.07)
    with pytest.raises(Broken, match="distance should be at most 10, got 12"):
        tried.at_most("distance", 12.0, 10.0)
    with pytest.raises(Broken):
        tried.at_most("distance", np.nan, 10.0)


def test_plain_facts():
    case().true("the sky has fallen", True)
    with pytest.raises(Broken, match="the sky has fallen") as caught:
        case().true("the sky has fallen", False)
    assert caught.value.error == np.inf


def test_a_case_shows_numbers_first_then_arrays():
    tried = case(real=False)
    tried.note("W", np.array([[1.0, -2 / 3]]))
    tried.note("r", 2)
    tried.note("alpha", 1 / 3)
    assert str(tried) == "r = 2, alpha = 0.333333\nW = [[ 1. , -0.666667]]"
