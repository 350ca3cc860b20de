"""Windows of a text: random ones for training and fixed ones for evaluation."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minilora.data.batches import fixed_windows, sample_batch

lengths = st.integers(2, 60)
contexts = st.integers(1, 12)


def numbered(length):
    """Return a text in which each token is 1000 plus its position."""
    return np.arange(1000, 1000 + length)


def all_windows(*arguments):
    inputs, targets = zip(*fixed_windows(*arguments), strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


@given(lengths, contexts, st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_windows_are_stretches_of_the_text_and_targets_one_further_on(length, context, count, seed):
    assume(length > context)
    text = numbered(length)
    sampled = sample_batch(text, count, context, np.random.default_rng(seed))
    for inputs, targets in (sampled, all_windows(text, count, context, 7)):
        assert inputs.shape == targets.shape == (count, context)
        np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(context))
        np.testing.assert_array_equal(targets, inputs + 1)
        assert inputs.min() >= 1000
        assert targets.max() < 1000 + length


def test_every_place_is_sampled_and_none_is_preferred():
    """10,000 windows over 20 positions: 500 each, with a standard deviation of 22."""
    inputs, _ = sample_batch(numbered(25), 10_000, 5, np.random.default_rng(0))
    counts = np.bincount(inputs[:, 0] - 1000, minlength=20)
    assert len(counts) == 20  # from the first position to the last that has a target
    assert np.abs(counts - 500).max() < 6 * 22


@given(st.integers(2, 400), contexts, st.integers(2, 40))
def test_fixed_windows_are_spread_evenly_from_the_beginning_to_the_very_end(length, context, count):
    assume(length > context)
    inputs, targets = all_windows(numbered(length), count, context, 7)
    starts = inputs[:, 0] - 1000
    assert starts[0] == 0
    assert targets[-1, -1] == 1000 + length - 1
    even = np.arange(count) * (length - context - 1) / (count - 1)
    assert np.abs(starts - even).max() <= 1
    steps = np.diff(starts)
    assert steps.max() - steps.min() <= 1


@given(contexts, st.integers(1, 30), st.integers(1, 40), st.integers(1, 40))
def test_fixed_windows_are_the_same_in_any_batches(context, count, batch, other):
    text = numbered(60)
    one, two = (all_windows(text, count, context, size) for size in (batch, other))
    np.testing.assert_array_equal(one, two)
    sizes = [len(inputs) for inputs, _ in fixed_windows(text, count, context, batch)]
    assert sizes[:-1] == [batch] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= batch


@pytest.mark.parametrize(
    ("length", "context", "message"),
    [
        (0, 5, "has 0 tokens, but one window needs 6; use a longer text"),
        (5, 5, "has 5 tokens, but one window needs 6"),
        (50, 0, "expected `context` to be a positive integer, got 0"),
        (50, -7, "expected `context` to be a positive integer, got -7"),
    ],
)
def test_what_has_no_window_is_refused(length, context, message):
    with pytest.raises(ValueError, match=message):
        sample_batch(numbered(length), 4, context, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        all_windows(numbered(length), 4, context, 2)
    with pytest.raises(ValueError, match="expected the number of windows to be a positive integer, got 0"):
        all_windows(numbered(50), 0, 5, 2)


def test_the_shortest_text_has_one_window():
    sampled, fixed = sample_batch(numbered(6), 3, 5, np.random.default_rng(0)), all_windows(numbered(6), 3, 5, 2)
    for inputs, targets in (sampled, fixed):
        assert inputs.tolist() == [[1000, 1001, 1002, 1003, 1004]] * 3
        assert targets.tolist() == [[1001, 1002, 1003, 1004, 1005]] * 3
