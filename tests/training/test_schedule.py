"""The learning rate rises to its peak in a straight line and falls along a half cosine."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minilora.training.schedule import warmup_cosine


@given(st.integers(1, 300), st.floats(0, 1), st.floats(1e-5, 1.0), st.floats(0, 1))
def test_it_reaches_the_peak_and_ends_at_the_floor(iters, part, peak, low):
    warmup, floor = int(part * iters), low * peak
    rates = [warmup_cosine(step, iters, warmup, peak, floor) for step in range(iters + 8)]
    assert rates[max(0, warmup - 1)] == pytest.approx(peak, rel=1e-12)
    assert rates[warmup] == max(rates) == pytest.approx(peak, rel=1e-12)
    for step in (iters if iters > warmup else iters + 1, iters + 7):
        assert rates[step] == pytest.approx(floor, rel=1e-12, abs=1e-17)


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
