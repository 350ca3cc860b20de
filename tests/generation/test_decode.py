"""The decode loop: in any batch, each text is the same as on its own and as with full forward passes."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import lora
from minilora.generation import Decoding, Request, Sampler, decode, generate, products
from tests.generation.texts import (
    alone,
    assert_identical,
    assert_same,
    assert_same_in_float32,
    far,
    forward_passes_alone,
    ids_of,
    request,
    smallest_bucket,
    written,
)

CHOICES = [None, {}, "a", "d", {"a": 1}, {"a": 0.5, "b": -1.5}, {"d": 0.5, "b": 1.0}, {"c": 2.0, "a": 0.0, "d": -0.5}]
DRAWN = [Sampler(1.0), Sampler(0.7, top_k=9), Sampler(1.3, top_p=0.9)]
requests = st.builds(
    request,
    seed=st.integers(0, 5),
    length=st.integers(1, 12),
    tokens=st.integers(1, 30),
    adapters=st.sampled_from(CHOICES),
    sampler=st.sampled_from([*DRAWN, Sampler(0)]),
    stop=st.sampled_from([None, (), [3], {0, 16}]),
)
buckets = st.sampled_from([2, 4, 64])
visits = st.tuples(requests, st.integers(0, 9), st.none() | st.integers(0, 9))  # add a text, take steps, remove a text
rows_at_a_time = st.none() | st.integers(1, 4)


@pytest.fixture(scope="module")
def families(make_family):
    """Models of different shapes; the last has a context longer than most texts, the others one of 12 tokens."""
    return [
        make_family(),
        make_family(num_key_value_heads=1, head_dim=6, tie_word_embeddings=False, eos_token_id=7),
        make_family(max_position_embeddings=37),
    ]


shapes = st.integers(0, 2)


@settings(max_examples=20)
@given(asked=requests, smallest=buckets, shape=shapes)
def test_a_text_alone_is_the_same_as_by_whole_forward_passes(asked, smallest, shape, families, whole_passes):
    model, rng = families[shape], np.random.default_rng(asked.seed)
    with smallest_bucket(smallest):
        found = alone(model, asked)
    passes = whole_passes(model, asked.prompt, len(found), asked.sampler, rng, asked.adapters)
    for token, (expected, logits) in zip(found, passes, strict=True):
        assert token.id == expected
        assert far(token.logits, logits) < 1e-12


@settings(max_examples=16)
@given(asked=st.lists(requests, min_size=3, max_size=6), rows=rows_at_a_time, smallest=buckets, shape=shapes)
def test_a_text_in_company_is_the_same_as_alone(asked, rows, smallest, shape, families):
    """The other texts have any lengths, adapters, samplers and seeds, and start and end at any step."""
    model = families[shape]
    with smallest_bucket(smallest):
        texts = written(decode(model, iter(asked), rows))
    for one in asked:
        assert_same(texts[one], alone(model, one))


@settings(max_examples=14)
@given(visits=st.lists(visits, min_size=3, max_size=6), smallest=buckets, shape=shapes)
def test_texts_may_be_added_and_removed_at_any_step(visits, smallest, shape, families):
    """Each text is the same as on its own, up to its removal."""
    model, found = families[shape], {}
    with smallest_bucket(smallest):
        play(Decoding(model), visits, found)
    for one, tokens in found.items():
        assert_same(tokens, alone(model, one)[: len(tokens)])


def play(decoding, visits, found):
    """For each visit, add a request, take steps, remove a request; then decode to the end. Tokens go into `found`."""
    alive = []
    for one, steps, leaves in [*visits, (None, 30, None)]:
        if one is not None:
            decoding.add(one)
            alive.append(one)
        for _ in range(steps):
            alive = take_step(decoding, alive, found)
        if alive and leaves is not None:
            decoding.remove(alive.pop(leaves % len(alive)))
    assert not alive
    assert len(decoding) == 0


def take_step(decoding, alive, found):
    """Take a step, check that it yields a token for each of `alive`, in order, and return the unfinished requests."""
    tokens = decoding.step() if alive else []
    assert [token.request for token in tokens] == alive
    for token in tokens:
        found.setdefault(token.request, []).append(token)
    return [token.request for token in tokens if token.finish_reason is None]


@settings(max_examples=10)
@given(asked=st.lists(requests, min_size=2, max_size=5), rows=rows_at_a_time, smallest=buckets)
def test_in_float32_company_changes_a_text_by_rounding_alone(asked, rows, smallest, single):
    asked = [one for one in asked if one.sampler.temperature > 0]  # near ties may be broken differently
    with smallest_bucket(smallest):
        texts = written(decode(single, iter(asked), rows))
    for one in asked:
        assert_same_in_float32(texts[one], alone(single, one))


@pytest.fixture(scope="module")
def single(make_family):
    model = make_family()
    model.astype(np.float32)
    return model


@settings(max_examples=8)
@given(asked=st.lists(requests, min_size=1, max_size=4), rows=rows_at_a_time)
def test_a_model_that_the_single_token_path_does_not_know_writes_the_same(asked, rows, families):
    with forward_passes_alone():
        texts = written(decode(families[0], iter(asked), rows))
    for one in asked:
        assert_same(texts[one], alone(families[0], one))


@pytest.mark.parametrize("choice", ["a", {"a": 0.5, "d": -1.0}], ids=str)
def test_a_merged_model_writes_the_same_as_with_the_adapters_apart(choice, make_family):
    merged, apart = make_family(), make_family()
    for model in merged, apart:
        lora.set_active(model, choice)
    lora.merge(merged)
    asked = [request(seed, length, 25) for seed, length in [(0, 3), (1, 12), (2, 3)]]
    texts = written(decode(merged, asked))
    for one in asked:
        assert_same(texts[one], alone(apart, one))


@settings(max_examples=8)
@given(asked=st.lists(requests, min_size=2, max_size=4), rows=rows_at_a_time)
def test_products_with_the_larger_matrix_in_front_write_the_same(asked, rows, families):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "SMALL", 0)  # as if the matrices were those of a larger model
        texts = written(decode(families[1], iter(asked), rows))
    for one in asked:
        assert_same(texts[one], alone(families[1], one))


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 40, 50, None])
def test_a_request_is_asked_for_as_soon_as_there_is_a_free_row_and_no_sooner(rows, families):
    asked, taken = [request(0, 3, 1 + i * i % 7) for i in range(40)], []
    steps = decode(families[0], (taken.append(one) or one for one in asked), rows)
    assert not taken
    ended = 0
    for step in steps:
        assert len(taken) == min(40, ended + (rows or 40))
        assert [token.request for token in step] == [one for one in taken if one in {token.request for token in step}]
        assert len(step) == len(taken) - ended
        ended += sum(token.finish_reason is not None for token in step)
    assert ended == 40


def test_no_requests_are_no_steps(families):
    assert list(decode(families[0], [])) == list(decode(families[0], iter([]), 3)) == []


def test_one_request_may_be_written_twice(families):
    asked = request(1, 3, 9)
    steps = list(decode(families[0], [asked, asked]))
    assert [len(step) for step in steps] == [2] * 9
    assert [one.id for one, _ in steps] == [two.id for _, two in steps] == ids_of(alone(families[0], asked))


@dataclass(frozen=True)
class Watched:
    """A chooser that selects the most likely token and records its arguments. Choosers of the same name are equal."""

    name: str
    given: list = field(default_factory=list, compare=False)

    def choose(self, logits, draws):
        self.given.append((logits, draws))
        return logits.argmax(axis=-1)


def test_a_chooser_is_given_the_rows_of_all_requests_with_an_equal_one_in_their_order(families):
    """This also holds after the first of them has ended. The draws come from the seeds of the requests."""
    first, second = Watched("one"), Watched("two")
    choosers = first, second, Watched("one", first.given), first
    asked = [request(seed, 4, 2 + 3 * seed, sampler=chooser) for seed, chooser in enumerate(choosers)]
    for i, step in enumerate(decode(families[0], asked)):
        for chooser in first, second:
            mine = [token for token in step if token.request.sampler == chooser]
            if mine:
                logits, draws = chooser.given[i]
                np.testing.assert_array_equal(logits, [token.logits for token in mine])
                np.testing.assert_array_equal(draws, [draw(token.request.seed, i) for token in mine])
    assert [len(draws) for _, draws in first.given] == [3] * 2 + [2] * 6 + [1] * 3
    assert [len(draws) for _, draws in second.given] == [1] * 5


def draw(seed, i):
    """Return the random number for token i of a text."""
    return np.random.default_rng(seed).random(i + 1)[i]


def test_the_seed_fixes_the_text(families):
    """The same seed and prompt give the same text, in one batch or on its own; another seed gives another text."""
    model, ids = families[0], np.array([1, 2, 3])

    def asked(seed):
        return Request(ids, 25, Sampler(1.0), seed)

    one, two, other = (ids_of(text) for text in written(decode(model, map(asked, (5, 5, 6)))).values())
    assert one == two == ids_of(alone(model, asked(5))) != other


@pytest.mark.parametrize(("seed", "same"), [(np.int64(7), 7), (np.uint8(7), 7), ((7, 0), [7, 0]), (2**70, 2**70)])
def test_a_seed_may_be_any_whole_number_or_several(seed, same, families):
    ids = np.array([1, 2, 3])
    found, expected = (alone(families[0], Request(ids, 20, Sampler(1.0), number)) for number in (seed, same))
    assert_identical(found, expected)
    assert ids_of(found) != ids_of(alone(families[0], Request(ids, 20, Sampler(1.0), 8)))


def test_row_i_of_generate_has_the_seed_and_i(families, prompts):
    texts = generate(families[0], prompts(0, 3, 5), 20, Sampler(1.0), np.int64(4))
    for i, prompt in enumerate(prompts(0, 3, 5)):
        assert texts[i].tolist() == ids_of(alone(families[0], Request(prompt, 20, Sampler(1.0), (4, i))))
