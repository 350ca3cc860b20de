"""Windows of a text: random ones to learn from, fixed ones to measure with."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minilora.data.batches import fixed_windows, sample_batch

seeds = st.integers(0, 2**32 - 1)
contexts = st.integers(1, 12)


def numbered(length):
    """A text in which each token tells its place."""
    return np.arange(1000, 1000 + length)


def all_windows(*arguments):
    inputs, targets = zip(*fixed_windows(*arguments), strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


def check(inputs, targets, context, length):
    """Each row is a stretch of the text, and its targets are the stretch one further on."""
    assert inputs.shape == targets.shape == (len(inputs), context)
    np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(context))
    np.testing.assert_array_equal(targets, inputs + 1)
    assert inputs.min() >= 1000
    assert targets.max() < 1000 + length


@given(st.integers(2, 60), contexts, st.integers(1, 20), seeds)
def test_samples_are_windows_of_the_text(length, context, batch, seed):
    assume(length > context)
    inputs, targets = sample_batch(numbered(length), batch, context, np.random.default_rng(seed))
    check(inputs, targets, context, length)
    assert len(inputs) == batch


@given(st.integers(2, 60), contexts, st.integers(1, 30), st.integers(1, 30))
def test_fixed_windows_are_windows_of_the_text(length, context, count, batch):
    assume(length > context)
    inputs, targets = all_windows(numbered(length), count, context, batch)
    check(inputs, targets, context, length)
    assert len(inputs) == count


def test_every_place_is_sampled_and_none_is_preferred():
    """10,000 windows over 20 places: 500 each, with a deviation of 22."""
    inputs, _ = sample_batch(numbered(25), 10_000, 5, np.random.default_rng(0))
    counts = np.bincount(inputs[:, 0] - 1000, minlength=20)
    assert len(counts) == 20  # from the first place to the last that has a target
    assert np.abs(counts - 500).max() < 6 * 22


@given(seeds)
def test_the_generator_is_all_the_randomness(seed):
    text = numbered(100)
    first, again, other = (
        sample_batch(text, 16, 5, np.random.default_rng(s))[0].tolist() for s in (seed, seed, seed + 1)
    )
    assert first == again != other


@given(seeds, st.integers(1, 7), st.integers(1, 5))
def test_several_batches_are_one_big_batch_in_parts(seed, batch, parts):
    """Why accumulating gradients over batches sees the same windows as one batch of the whole size."""
    rng = np.random.default_rng(seed)
    small = [sample_batch(numbered(100), batch, 5, rng)[0] for _ in range(parts)]
    big = sample_batch(numbered(100), batch * parts, 5, np.random.default_rng(seed))[0]
    np.testing.assert_array_equal(np.concatenate(small), big)


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


def test_the_text_is_not_changed():
    text = numbered(50)
    text.flags.writeable = False
    inputs, _ = sample_batch(text, 4, 5, np.random.default_rng(0))
    fixed, _ = all_windows(text, 4, 5, 2)
    inputs += 1
    fixed += 1
    np.testing.assert_array_equal(text, numbered(50))


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_text_without_a_single_window(length):
    for draw in (
        lambda: sample_batch(numbered(length), 4, 5, np.random.default_rng(0)),
        lambda: all_windows(numbered(length), 4, 5, 2),
    ):
        with pytest.raises(ValueError, match=f"has {length} tokens, but one window needs 6; give a longer text"):
            draw()


def test_the_shortest_text_has_one_window():
    sampled, fixed = sample_batch(numbered(6), 3, 5, np.random.default_rng(0)), all_windows(numbered(6), 3, 5, 2)
    for inputs, targets in (sampled, fixed):
        assert inputs.tolist() == [[1000, 1001, 1002, 1003, 1004]] * 3
        assert targets.tolist() == [[1001, 1002, 1003, 1004, 1005]] * 3


@pytest.mark.parametrize("context", [0, -1, -7])
def test_a_window_of_no_tokens(context):
    with pytest.raises(ValueError, match=f"context should be at least 1 token, got {context}"):
        sample_batch(numbered(50), 2, context, np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"context should be at least 1 token, got {context}"):
        all_windows(numbered(50), 2, context, 2)


@pytest.mark.parametrize("count", [0, -1])
def test_no_windows(count):
    with pytest.raises(ValueError, match=f"at least one window to look at, got {count}"):
        all_windows(numbered(50), count, 5, 2)
