"""Helpers: choosers that follow a script, texts written alone or in company, and comparing them."""

from contextlib import contextmanager

import numpy as np
import pytest

from minilora.generation import Request, decode, reader


class Script:
    """A chooser that ignores the logits and takes the given tokens in turn."""

    def __init__(self, tokens):
        self.left = iter([int(token) for token in tokens])

    def choose(self, logits, draws):
        return np.full(len(logits), next(self.left))


@contextmanager
def smallest_bucket(room):
    """Inside this block the smallest bucket has room for so many tokens, so that short texts move between buckets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "SMALLEST", room)
        yield


@contextmanager
def forward_passes_alone():
    """Inside this block no model is known to the single-token path: every token is read by a forward pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "can_step", lambda model: False)
        yield


def written(steps):
    """The tokens of each request: {request: [token, ...]}."""
    texts = {}
    for step in steps:
        for token in step:
            texts.setdefault(token.request, []).append(token)
    return texts


def alone(model, request):
    """The tokens of a request, written with no other text beside it."""
    return [token for (token,) in decode(model, [request])]


def texts_of(decoding):
    """The text of each request that is being met, as far as it has been read."""
    return [writing.text for writing in decoding.writing]


def ids_of(tokens):
    return [token.id for token in tokens]


def far(found, expected):
    """The largest difference, relative to the largest expected number."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def assert_same(found, expected):
    """The same tokens in float64: the ids are equal, and the logits up to rounding."""
    assert [(token.id, token.finish_reason) for token in found] == [(t.id, t.finish_reason) for t in expected]
    for token, other in zip(found, expected, strict=True):
        assert far(token.logits, other.logits) < 1e-12


def assert_same_in_float32(found, expected):
    """The same tokens, where a draw within 1e-4 of the boundary between two tokens may take either of them.

    After such a draw the texts are different ones, and are compared no further.
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
    """The same tokens from the same bits of logits."""
    assert ids_of(found) == ids_of(expected)
    for token, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(token.logits, other.logits)


def request(seed, length, tokens, **options):
    """A request whose prompt has `length` random ids below 17."""
    prompt = np.random.default_rng([seed, length]).integers(0, 17, length)
    return Request(prompt, tokens, seed=seed, **options)
