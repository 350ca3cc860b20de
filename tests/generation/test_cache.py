"""The cache is a matter of speed: what is written is what whole forward passes would write, beyond the context too."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.generation import Sampler, generate, stream
from minilora.generation.token_step import TokenStep
from minilora.nn import Llama

GREEDY = Sampler(temperature=0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), length=st.integers(1, 12), tokens=st.integers(1, 30), context=st.integers(1, 12))
def test_greedy_is_greedy_without_a_cache(seed, length, tokens, context, make_model, prompts, without_cache):
    model = make_model(seed, max_position_embeddings=context)
    (prompt,) = prompts(seed, min(length, context))
    assert generate(model, [prompt], tokens, GREEDY)[0].tolist() == without_cache(model, prompt, tokens, GREEDY)


def test_a_stream_is_the_same_tokens_as_they_come(make_model, prompts):
    """A row that still reads its prompt, or is done, has None in its place."""
    model, texts = make_model(), prompts(0, 2, 5)
    columns = list(stream(model, texts, 4, Sampler(1.0), seed=3))
    assert [[token is None for token in column] for column in columns] == (
        [[False, True]] * 3 + [[False, False]] + [[True, False]] * 3
    )
    rows = [[token for token in row if token is not None] for row in zip(*columns, strict=True)]
    assert rows == [row.tolist() for row in generate(model, texts, 4, Sampler(1.0), seed=3)]


def test_it_is_the_cache_that_is_read(make_model, prompts, monkeypatch):
    """One forward pass over the prompt, then one token at a time, until the context is full."""
    model, widths = make_model(), []
    forward, step = Llama.forward, TokenStep.__call__
    monkeypatch.setattr(Llama, "forward", lambda self, ids, *a: widths.append(ids.shape[1]) or forward(self, ids, *a))
    monkeypatch.setattr(TokenStep, "__call__", lambda self, ids, cache: widths.append("one") or step(self, ids, cache))
    generate(model, prompts(0, 9), 12, GREEDY)
    assert widths == [9, "one", "one", "one", 6, "one", "one", "one", "one", "one", "one", 6]


def test_it_goes_on_far_beyond_the_context(make_model, prompts):
    (row,) = generate(make_model(), prompts(0, 12), 100, Sampler(1.0))
    assert len(row) == 100
    assert row.dtype == np.int64
    assert len(set(row[50:].tolist())) > 3  # and still writes, rather than repeating one token
