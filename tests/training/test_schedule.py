"""The learning rate: linear warmup to the peak, then cosine decay, linear decay, or a constant."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minilora.training import AdamW, TrainingConfig, train
from minilora.training.schedule import SCHEDULES, learning_rate


@given(st.integers(1, 300), st.floats(0, 1), st.floats(1e-5, 1.0), st.floats(0, 1))
def test_it_reaches_the_peak_and_ends_at_the_floor(iters, part, peak, low):
    warmup, floor = int(part * iters), low * peak
    rates = [learning_rate(step, iters, lr=peak, min_lr=floor, warmup=warmup) for step in range(iters + 8)]
    assert rates[max(0, warmup - 1)] == pytest.approx(peak, rel=1e-12)
    assert rates[warmup] == pytest.approx(peak, rel=1e-12)
    assert max(rates) == pytest.approx(peak, rel=1e-12)
    for step in (iters if iters > warmup else iters + 1, iters + 7):
        assert rates[step] == pytest.approx(floor, rel=1e-12, abs=1e-17)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(1e-3, 1), st.floats(0, 1))
def test_the_fall_is_a_half_cosine(warmup, sixths, peak, part):
    """After 1/3, 1/2 and 2/3 of the decay, 3/4, 1/2 and 1/4 of the height above the floor remain."""
    floor, length = part * peak, 6 * sixths
    assume(peak > floor)
    for way, left in ((2, 0.75), (3, 0.5), (4, 0.25)):
        lr = learning_rate(warmup + way * sixths, warmup + length, lr=peak, min_lr=floor, warmup=warmup)
        assert lr == pytest.approx(floor + left * (peak - floor), rel=1e-12)


def test_the_rise_is_a_straight_line():
    for schedule in SCHEDULES:
        rates = [learning_rate(step, 10, schedule=schedule, lr=1.0, warmup=4) for step in range(4)]
        assert rates == [0.25, 0.5, 0.75, 1.0], schedule


def test_linear_falls_in_a_straight_line_and_constant_stays():
    linear = [learning_rate(step, 6, schedule="linear", lr=1.0, min_lr=0.5, warmup=2) for step in range(2, 9)]
    assert linear == [1.0, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5]
    assert {learning_rate(step, 6, schedule="constant", lr=0.1, min_lr=0.05) for step in range(9)} == {0.1}


@pytest.mark.parametrize(("iters", "warmup", "steps"), [(40, None, 8), (3, None, 0), (5000, None, 100), (40, 100, 100)])
def test_the_default_warmup_fits_the_run(iters, warmup, steps):
    config = TrainingConfig(iters=iters, warmup=warmup)
    assert config.warmup_steps == steps
    assert TrainingConfig(iters=1000).warmup_steps == 100


def test_a_short_run_reaches_its_learning_rate(make_model, ids, monkeypatch):
    rates = []
    monkeypatch.setattr(AdamW, "step", lambda self, lr: rates.append(lr) or setattr(self, "steps", self.steps + 1))
    train(make_model(), ids, ids, iters=20, batch=2, context=8, eval_windows=2, lr=1e-2, quiet=True)
    assert max(rates) == pytest.approx(1e-2)
    assert rates.index(max(rates)) == 3
