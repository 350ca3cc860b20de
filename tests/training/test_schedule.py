"""The learning rate rises to its peak in a straight line and falls along a half cosine, without a jump."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minilora.training.schedule import warmup_cosine


@st.composite
def schedules(draw):
    iters = draw(st.integers(1, 300))
    peak = draw(st.floats(1e-5, 1.0))
    return iters, draw(st.integers(0, iters)), peak, peak * draw(st.floats(0, 1))


def rates(schedule):
    return [warmup_cosine(step, *schedule) for step in range(schedule[0] + 1)]


@given(schedules())
def test_it_reaches_the_peak_and_ends_at_the_floor(schedule):
    iters, warmup, peak, floor = schedule
    lr = rates(schedule)
    assert max(lr) == pytest.approx(peak, rel=1e-12)
    assert lr[max(0, warmup - 1)] == pytest.approx(peak, rel=1e-12)
    assert lr[warmup] == pytest.approx(peak, rel=1e-12)
    for step in (iters if iters > warmup else iters + 1, iters + 7):
        assert warmup_cosine(step, *schedule) == pytest.approx(floor, rel=1e-12, abs=1e-17)


@given(schedules())
def test_it_is_continuous(schedule):
    """No two neighbours differ by more than the line's slope, or the cosine's steepest."""
    iters, warmup, peak, floor = schedule
    lr = rates(schedule)
    slope = peak / warmup if warmup else 0.0
    steepest = (peak - floor) * math.pi / 2 / max(1, iters - warmup)
    for step in range(iters):
        bound = slope if step + 1 < warmup else steepest
        assert abs(lr[step + 1] - lr[step]) <= bound * (1 + 1e-9) + 1e-15


@given(schedules())
def test_it_rises_then_falls_and_stays_positive(schedule):
    _, warmup, _, floor = schedule
    lr = rates(schedule)
    assert lr[0] > 0
    assert all(a < b for a, b in pairwise(lr[:warmup]))
    assert all(a >= b for a, b in pairwise(lr[warmup:]))
    assert all(rate >= floor * (1 - 1e-12) for rate in lr[warmup:])


@given(st.integers(0, 50), st.integers(1, 50), st.floats(1e-3, 1), st.floats(0, 1))
def test_the_fall_is_a_half_cosine(warmup, sixths, peak, part):
    """At a third, a half and two thirds of the way, three quarters, a half and a quarter of the height is left."""
    floor, length = part * peak, 6 * sixths
    assume(peak > floor)
    for way, left in ((2, 0.75), (3, 0.5), (4, 0.25)):
        lr = warmup_cosine(warmup + way * sixths, warmup + length, warmup, peak, floor)
        assert lr == pytest.approx(floor + left * (peak - floor), rel=1e-12)


def test_the_rise_is_a_straight_line():
    assert [warmup_cosine(step, 10, 4, 1.0, 0.0) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
