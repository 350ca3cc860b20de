"""Test helpers: scripted choosers, texts generated on their own or in a batch, and comparisons."""

from contextlib import contextmanager

import numpy as np
import pytest

from minilora.generation import Request, decode, reader


class Script:
    """A chooser that ignores the logits and returns the given tokens in order."""

    def __init__(self, tokens):
        self.left = iter([int(token) for token in tokens])

    def choose(self, logits, draws):
        return np.full(len(logits), next(self.left))


@contextmanager
def smallest_bucket(room):
    """Context manager: the smallest bucket has room for `room` tokens, so that short texts move between buckets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "SMALLEST", room)
        yield


@contextmanager
def forward_passes_alone():
    """Context manager: the single-token path supports no model, so every token is processed by a forward pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "can_step", lambda model: False)
        yield


def written(steps):
    """Return the tokens of each request: {request: [token, ...]}."""
    texts = {}
    for step in steps:
        for token in step:
            texts.setdefault(token.request, []).append(token)
    return texts


def alone(model, request):
    """Return the tokens of a request that is decoded on its own."""
    return [token for (token,) in decode(model, [request])]


def texts_of(decoding):
    """Return the text of each request in progress."""
    return [one.text for one in decoding.in_progress]


def ids_of(tokens):
    return [token.id for token in tokens]


def far(found, expected):
    """Return the largest absolute difference, relative to the largest absolute expected value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def assert_same(found, expected):
    """Check that float64 tokens are the same: equal ids and finish reasons, and logits equal up to rounding."""
    assert [(token.id, token.finish_reason) for token in found] == [(t.id, t.finish_reason) for t in expected]
    for token, other in zip(found, expected, strict=True):
        assert far(token.logits, other.logits) < 1e-12


def assert_same_in_float32(found, expected):
    """Check that float32 tokens are the same, except where a draw is within 1e-4 of the boundary between two tokens.

    After such a difference, the texts diverge and are not compared further.
    """
    for i, (token, other) in enumerate(zip(found, expected, strict=True)):
        assert token.logits.dtype == np.float32
        assert far(token.logits, other.logits) < 1e-5
        if token.id != other.id:
            draw = np.random.default_rng(token.request.seed).random(i + 1)[i]
            boundaries = np.cumsum(token.request.sampler.probabilities(other.logits[None])[0])
            assert np.abs(boundaries - draw).min() < 1e-4
            return


def assert_identical(found, expected):
    """Check that the tokens are the same and the logits are bit-for-bit identical."""
    assert ids_of(found) == ids_of(expected)
    for token, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(token.logits, other.logits)


def request(seed, length, tokens, **options):
    """Return a request with a prompt of `length` random ids below 17."""
    prompt = np.random.default_rng([seed, length]).integers(0, 17, length)
    return Request(prompt, tokens, seed=seed, **options)
