"""Sampling: temperature, top-k and top-p."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.generation import Sampler

seeds = st.integers(0, 2**32 - 1)


def test_temperature_zero_takes_the_likeliest_by_however_little():
    logits = np.array([[1.0, 1.0 + 1e-12, 1.0]])
    assert {Sampler(0).choose(logits, np.array([draw]))[0] for draw in (0.0, 0.3, 0.6, 0.9)} == {1}


@given(seeds, st.integers(2, 30), st.integers(1, 30), st.integers(1, 4))
def test_top_k_keeps_or_drops_equals_together(seed, size, k, levels):
    """All tokens at least as likely as the kth are kept, including ties, and no others."""
    logits = np.random.default_rng(seed).integers(0, levels, (1, size)).astype(np.float32)
    p = Sampler(1.0, top_k=k).probabilities(logits)[0]
    kth = np.sort(logits[0])[::-1][min(k, size) - 1]
    np.testing.assert_array_equal(p > 0, logits[0] >= kth)


@settings(deadline=None)
@given(seeds, st.sampled_from([1, 2, 300, 5000]), st.sampled_from([0.1, 0.5, 0.9, 0.999, 1 - 1e-12]))
def test_top_p_needs_no_order_of_the_unlikely(seed, size, top_p):
    """The result is bit-for-bit identical to a full sort, for rows with flat and steep distributions."""
    logits = np.random.default_rng(seed).standard_normal((3, size)) * np.array([[0.0], [1.0], [8.0]])
    p = Sampler(1.0).probabilities(logits)
    found = Sampler(1.0, top_p=top_p).probabilities(logits)
    for row, kept in zip(p, found, strict=True):
        order = np.argsort(-row, kind="stable")
        before = np.cumsum(row[order]) - row[order]
        expected = np.zeros(size)
        expected[order] = np.where(before < top_p, row[order], 0)
        np.testing.assert_array_equal(kept, expected / expected.sum())


@pytest.mark.parametrize(("top_p", "kept"), [(1e-9, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.76, 4), (1.0, 4)])
def test_top_p_at_its_edges(top_p, kept):
    """Quarters are exact in binary, so a total can equal top_p exactly; of equal tokens, the first are kept."""
    p = Sampler(1.0, top_p=top_p).probabilities(np.zeros((1, 4)))[0]
    np.testing.assert_array_equal(p > 0, np.arange(4) < kept)


@given(seeds, st.integers(1, 40), st.sampled_from([{}, {"top_k": 3}, {"top_p": 0.7}]))
def test_evenly_spread_draws_choose_in_proportion(seed, size, cut):
    """With the draws 0.5/n, 1.5/n, ..., each token is chosen n times its probability, up to a difference of 1."""
    n, sampler = 1000, Sampler(0.7, **cut)
    logits = np.random.default_rng(seed).normal(0, 2, (1, size)).repeat(n, axis=0)
    counts = np.bincount(sampler.choose(logits, (np.arange(n) + 0.5) / n), minlength=size)
    p = sampler.probabilities(logits[:1])[0]
    assert np.abs(counts - n * p).max() <= 1
    assert not counts[p == 0].any()


@pytest.mark.parametrize("draw", [0.0, 0.5, np.nextafter(1, 0)])
def test_the_ends_of_the_interval(draw):
    """The smallest and largest draws choose tokens with nonzero probability."""
    logits = np.array([[-1e4, 0.0, 0.0, -1e4]])
    assert Sampler(1.0).choose(logits, np.array([draw]))[0] == (2 if draw >= 0.5 else 1)


def test_huge_logits_do_not_overflow():
    p = Sampler(1e-3).probabilities(np.array([[3e38, -3e38, 1.0]], dtype=np.float32))
    np.testing.assert_array_equal(p, [[1, 0, 0]])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("temperature", value) for value in (-0.1, float("nan"))),
        *(("top_k", value) for value in (0, -3)),
        *(("top_p", value) for value in (0.0, 1.1, -0.5, float("nan"))),
    ],
)
def test_settings_that_mean_nothing(setting, value):
    with pytest.raises(ValueError, match=f"^expected `{setting}` to be .*, got {value}$"):
        Sampler(**{setting: value})
