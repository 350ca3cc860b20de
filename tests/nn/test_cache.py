"""With a cache, a text processed in pieces has the same logits as a text processed at once."""

import numpy as np
import pytest

from minilora import no_grad


@pytest.mark.parametrize(
    ("lengths", "dtype", "tolerance"),
    [([30] + [1] * 50, np.float32, 1e-5), ([1, 65, 2, 64, 28], np.float64, 1e-12)],
    ids=["a prompt and then token by token", "pieces across the blocks of attention"],
)
def test_pieces_of_any_size(lengths, dtype, tolerance, unit_llama, draw_ids):
    model = unit_llama(num_attention_heads=6, num_key_value_heads=3, rope_theta=100.0)
    model.astype(dtype)
    ids = draw_ids(model, time=sum(lengths))
    whole = model(ids).data
    cache, start, pieces = model.new_cache(len(ids)), 0, []
    with no_grad():
        for length in lengths:
            assert cache.length == start
            pieces.append(model(ids[:, start : start + length], cache).data)
            start += length
    assert cache.length == start
    found = np.concatenate(pieces, axis=1)
    assert found.dtype == dtype
    assert np.abs(found - whole).max() < tolerance * np.abs(whole).max()


def test_the_whole_context_can_be_read_and_not_one_token_more(unit_llama, draw_ids):
    model = unit_llama(max_position_embeddings=12)
    ids = draw_ids(model, time=13)
    whole = model(ids[:, :12]).data
    cache = model.new_cache(2)
    with no_grad():
        model(ids[:, :11], cache)
        with pytest.raises(ValueError, match="13 tokens exceed the model's context of 12; shorten the text"):
            model(ids[:, 11:], cache)
        assert cache.length == 11  # the rejected tokens left no trace
        last = model(ids[:, 11:12], cache).data
    assert np.abs(last[:, 0] - whole[:, -1]).max() < 1e-5 * np.abs(whole).max()
    with pytest.raises(ValueError, match="13 tokens exceed"):
        model(ids)


def test_a_cache_holds_no_gradients(unit_llama, draw_ids):
    model = unit_llama()
    cache = model.new_cache(2)
    with pytest.raises(ValueError, match="generate inside `with no_grad"):
        model(draw_ids(model), cache)
    assert cache.length == 0
