"""Memory: the keys and values of a text take space for its length, not for the model's context."""

import tracemalloc
import weakref

import numpy as np
import pytest

from minilora import no_grad
from minilora.generation import Decoding, decode
from tests.generation.texts import request, smallest_bucket, texts_of

CONTEXT = 131072
ROW = 2 * 2 * 2 * 2 * 8  # bytes per token: keys and values, two layers, two heads of size 2, float64


@pytest.fixture(scope="module")
def long_model(make_model):
    return make_model(max_position_embeddings=CONTEXT)


def held(texts):
    """Return the bytes of all buckets that hold the texts."""
    return sum(array.nbytes for bucket in {text.bucket for text in texts} for array in bucket.arrays)


def test_a_bucket_has_at_most_twice_the_room_that_its_longest_text_needs(long_model):
    decoding = Decoding(long_model)
    decoding.add(request(0, 3, 40))
    with smallest_bucket(2):
        for read in range(3, 42):
            decoding.step()
            (text,) = texts_of(decoding)
            assert text.length == read
            assert ROW * read <= held([text]) <= 2 * ROW * (read + 1)


def test_texts_of_other_lengths_have_room_of_their_own(long_model):
    """A long text does not increase the memory of short ones."""
    decoding = Decoding(long_model)
    for length in (100, 3, 3, 3, 3):
        decoding.add(request(0, length, 9))
    with smallest_bucket(4):
        decoding.step()
        assert held(texts_of(decoding)) == ROW * (128 + 4 * 4)


def test_many_texts_have_at_most_half_as_many_empty_places_beside_them(long_model):
    decoding = Decoding(long_model)
    with smallest_bucket(4):
        for number in range(1, 30):
            decoding.add(request(number, 20, 60))
            decoding.step()
            assert held(texts_of(decoding)) <= ROW * (32 + 64) * (1.5 * number + 1)


def test_writing_in_a_long_context_takes_little_memory(long_model):
    """Less than 1 MB in total; keys and values for the entire context would take 17 MB."""
    asked = [request(seed, 10, 40) for seed in range(3)]
    list(decode(long_model, asked[:1]))  # warm up, to exclude one-time allocations
    tracemalloc.start()
    steps = sum(1 for _ in decode(long_model, asked))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert steps == 40
    assert most < 1e6 < CONTEXT * ROW


def test_a_cache_has_at_most_twice_the_room_that_its_tokens_need(long_model):
    cache, ids = long_model.new_cache(1), np.random.default_rng(0).integers(0, 17, (1, 40))
    arrays = [array for layer in cache.layers for array in (layer.keys, layer.values)]
    assert sum(array.nbytes for array in arrays) == 0
    with no_grad():
        for start, stop in [(0, 7), *((i, i + 1) for i in range(7, 40))]:
            long_model(ids[:, start:stop], cache)
            taken = sum(array.nbytes for layer in cache.layers for array in (layer.keys, layer.values))
            assert ROW * stop <= taken <= 2 * ROW * stop


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("end", ["it moves", "it is removed", "it forgets"])
def test_a_bucket_that_has_become_empty_is_let_go(end, make_model):
    """It is freed by the next step at the latest, although another text remains."""
    decoding, rest = Decoding(make_model(max_position_embeddings=20)), request(1, 1, 15)
    length = 18 if end == "it forgets" else 6
    mine = request(0, length, 30)
    with smallest_bucket(2):
        for one in mine, rest:
            decoding.add(one)
        decoding.step()
        left = weakref.ref(texts_of(decoding)[0].bucket)
        assert left().texts == texts_of(decoding)[:1]
        if end == "it is removed":
            decoding.remove(mine)
        for _ in range(5):
            decoding.step()
        assert left() is None
        assert rest in [one.request for one in decoding.in_progress]
