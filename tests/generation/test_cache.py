"""The cache only affects speed: the texts equal those of full forward passes, even beyond the context."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.generation import Decoding, Sampler, generate, reader, stream
from minilora.generation.token_step import TokenStep
from minilora.nn.llama import Decoder
from tests.generation.texts import request

GREEDY = Sampler(temperature=0)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), length=st.integers(1, 12), tokens=st.integers(1, 30), context=st.integers(1, 12))
def test_greedy_is_greedy_without_a_cache(seed, length, tokens, context, make_model, prompts, without_cache):
    model = make_model(seed, max_position_embeddings=context)
    (prompt,) = prompts(seed, min(length, context))
    assert generate(model, [prompt], tokens, GREEDY)[0].tolist() == without_cache(model, prompt, tokens, GREEDY)


def test_a_stream_is_the_same_tokens_as_they_come(make_model, prompts):
    """Rows with prompts of any length start in the first step; a finished row yields None."""
    model, texts = make_model(eos_token_id=9), prompts(0, 2, 5, 3)
    columns = list(stream(model, texts, 9, Sampler(1.0), seed=3))
    rows = [row.tolist() for row in generate(model, texts, 9, Sampler(1.0), seed=3)]
    assert [len(row) for row in rows] == [4, 9, 7]
    assert columns == [[row[i] if i < len(row) else None for row in rows] for i in range(9)]


@pytest.fixture
def reads(monkeypatch):
    """The size of each call: (rows, tokens per row) of a full forward pass, or the rows of a TokenStep."""
    seen = []
    forward, step = Decoder.forward, TokenStep.__call__
    monkeypatch.setattr(Decoder, "forward", lambda self, ids, *a: seen.append(ids.shape) or forward(self, ids, *a))
    monkeypatch.setattr(TokenStep, "__call__", lambda self, ids, *a: seen.append(len(ids)) or step(self, ids, *a))
    return seen


def test_it_is_the_cache_that_is_read(make_model, prompts, reads):
    """One forward pass over the prompt, then single tokens; a full context restarts with its newer half."""
    generate(make_model(), prompts(0, 9), 12, GREEDY)
    assert reads == [(1, 9), 1, 1, 1, (1, 6), 1, 1, 1, 1, 1, 1, (1, 6)]


def test_a_text_that_joins_or_forgets_is_the_only_one_that_is_read(make_model, reads):
    """In the same step, the other texts process only one token each."""
    decoding = Decoding(make_model())
    for length, steps in [(10, 1), (7, 5)]:  # the first text drops its older half in the fourth step
        decoding.add(request(0, length, 20))
        for _ in range(steps):
            decoding.step()
    assert reads == [(1, 10), 1, (1, 7), 2, 1, (1, 6), 2, 2]


@pytest.mark.parametrize(
    ("lengths", "passes"),
    [
        ([12], [(1, 12)]),
        ([6, 12, 7], [(3, 12)]),
        ([5, 12, 1, 6, 3, 2], [(2, 12), (2, 5), (2, 2)]),
        ([1, 3, 12], [(1, 12), (1, 3), (1, 1)]),
    ],
    ids=str,
)
def test_prompts_are_read_together_if_the_longest_is_at_most_twice_the_shortest(lengths, passes, make_model, reads):
    assert reader.PADDED == 2
    decoding = Decoding(make_model())
    for length in lengths:
        decoding.add(request(0, length, 5))
    decoding.step()
    assert reads == passes


def test_it_goes_on_far_beyond_the_context(make_model, prompts):
    (row,) = generate(make_model(), prompts(0, 12), 100, Sampler(1.0))
    assert len(row) == 100
    assert row.dtype == np.int64
    assert len(set(row[50:].tolist())) > 3  # still varied, rather than one repeated token
