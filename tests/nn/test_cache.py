"""With the cache, a text read in pieces has the logits of the text read at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import no_grad

SHAPES = [
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 1, "tie_word_embeddings": False},
    {"num_attention_heads": 6, "num_key_value_heads": 3, "rope_theta": 100.0},
]


def read_in_pieces(model, ids, lengths):
    cache, start, pieces = model.new_cache(len(ids)), 0, []
    with no_grad():
        for length in lengths:
            assert cache.length == start
            pieces.append(model(ids[:, start : start + length], cache).data)
            start += length
    assert cache.length == start
    return np.concatenate(pieces, axis=1)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.lists(st.integers(1, 70), min_size=1, max_size=6), st.integers(1, 3))
def test_pieces_of_any_size(unit_llama, draw_ids, shape, lengths, batch):
    while sum(lengths) > 160:
        lengths = lengths[1:]
    model = unit_llama(**shape)
    model.astype(np.float64)
    ids = draw_ids(model, batch=batch, time=sum(lengths))
    whole = model(ids).data
    assert np.abs(read_in_pieces(model, ids, lengths) - whole).max() < 1e-12 * np.abs(whole).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_and_then_token_by_token_in_float32(shape, unit_llama, draw_ids):
    model = unit_llama(**shape)
    ids = draw_ids(model, time=80)
    whole, pieces = model(ids).data, read_in_pieces(model, ids, [30] + [1] * 50)
    assert pieces.dtype == np.float32
    assert np.abs(pieces - whole).max() < 1e-5 * np.abs(whole).max()


def test_the_whole_context_can_be_read_and_not_one_token_more(unit_llama, draw_ids):
    model = unit_llama(max_position_embeddings=12)
    ids = draw_ids(model, time=13)
    whole = model(ids[:, :12]).data
    cache = model.new_cache(2)
    with no_grad():
        model(ids[:, :11], cache)
        with pytest.raises(ValueError, match="13 tokens are more than the model's context of 12"):
            model(ids[:, 11:], cache)
        assert cache.length == 11  # the refused tokens left no trace
        last = model(ids[:, 11:12], cache).data
    assert np.abs(last[:, 0] - whole[:, -1]).max() < 1e-5 * np.abs(whole).max()
    with pytest.raises(ValueError, match="13 tokens are more than the model's context of 12"):
        model(ids)


def test_a_cache_holds_no_gradients(unit_llama, draw_ids):
    model = unit_llama()
    cache = model.new_cache(2)
    with pytest.raises(ValueError, match="generate inside `with no_grad"):
        model(draw_ids(model), cache)
    assert cache.length == 0
