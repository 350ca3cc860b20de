"""Generation with a different adapter for each prompt: each row equals the text generated on its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import lora
from minilora.generation import Sampler, generate, stream, write, write_stream
from minilora.nn.choice import chosen

MIXED = ["a", None, {"a": 0.5, "b": -1.5}, "c", "a", {"c": 2.0}]
SAMPLER = Sampler(1.2, top_k=9)


def tokens_of(rows):
    return [row.tolist() for row in rows]


def as_rows(columns):
    return [[token for token in row if token is not None] for row in zip(*columns, strict=True)]


strengths = st.dictionaries(st.sampled_from("abc"), st.floats(-2, 2), max_size=3)
choices = st.one_of(st.none(), st.sampled_from("abc"), strengths)


@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000),
    rows=st.lists(st.tuples(st.integers(1, 12), choices), min_size=1, max_size=4),
    tokens=st.integers(1, 30),
)
def test_each_row_is_the_same_text_as_alone(seed, rows, tokens, make_adapted, prompts, without_cache):
    """Reference: full forward passes with the selection made active, for texts that exceed the context."""
    model, texts, adapters = make_adapted(), prompts(seed, *[n for n, _ in rows]), [choice for _, choice in rows]
    together = generate(model, texts, tokens, SAMPLER, seed, adapters)
    for i, (text, choice) in enumerate(zip(texts, adapters, strict=True)):
        lora.set_active(model, choice)
        rng = np.random.default_rng([seed, i])  # the seed of row i
        assert together[i].tolist() == without_cache(model, text, tokens, SAMPLER, rng)


def test_the_rows_do_differ(adapted, prompts):
    """With the same prompt and greedy sampling, the texts differ only because of the adapters."""
    texts = prompts(1, 5) * 4
    written = tokens_of(generate(adapted, texts, 25, Sampler(temperature=0), adapters=MIXED[:4]))
    assert len({tuple(row) for row in written}) == 4


@pytest.mark.parametrize("choice", ["a", {"a": 0.5, "c": 1.0}, {}], ids=str)
def test_one_choice_for_all_prompts_and_for_a_text(choice, make_adapted, prompts):
    model, texts = make_adapted(vocab_size=256), prompts(2, 2, 7, 4)

    def written(choice):
        text = write(model, "Grüße", 20, SAMPLER, 3, choice)
        assert text == "".join(write_stream(model, "Grüße", 20, SAMPLER, 3, choice))
        return [*tokens_of(generate(model, texts, 20, SAMPLER, 3, choice)), text]

    found = written(choice)
    assert found[:3] == tokens_of(generate(model, texts, 20, SAMPLER, 3, [choice] * 3))
    assert all(one != other for one, other in zip(found, written(None), strict=True))
    lora.set_active(model, choice)
    assert found == written(None)


def test_between_two_steps_the_model_is_as_before(adapted, prompts):
    texts, ids = prompts(3, 2, 5, 3), np.array([[1, 2, 3]])
    logits = adapted(ids).data
    expected = tokens_of(generate(adapted, texts, 20, SAMPLER, 4, MIXED[:3]))
    columns = []
    for column in stream(adapted, texts, 20, SAMPLER, 4, MIXED[:3]):
        columns.append(column)
        assert chosen() is None
        assert lora.active(adapted) == {"b": 1.0}
        np.testing.assert_array_equal(adapted(ids).data, logits)
    assert as_rows(columns) == expected


def test_a_stream_is_not_moved_by_what_its_reader_does(adapted, prompts):
    """Between steps, the reader changes the active adapters, calls the model, and advances another stream."""
    texts = prompts(4, 2, 5, 3)
    expected = [tokens_of(generate(adapted, texts, 20, SAMPLER, 4, a)) for a in (MIXED[:3], MIXED[3:])]
    one, two = (stream(adapted, texts, 20, SAMPLER, 4, a) for a in (MIXED[:3], MIXED[3:]))
    columns = []
    for i, pair in enumerate(zip(one, two, strict=True)):
        columns.append(pair)
        lora.set_active(adapted, MIXED[i % 6])
        adapted(np.array([[1, 2], [3, 4]]), adapters=[MIXED[-1 - i % 6], "b"])
    assert [as_rows(part) for part in zip(*columns, strict=True)] == expected


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        (["a", "bard"], "there is no adapter 'bard'; the model has a, b, c"),
        (["a"], "expected one entry of `adapters` for each of 2 rows, got 1"),
        ([None, {"a": float("nan")}], "the strength of 'a' should be a finite number, got nan"),
    ],
    ids=str,
)
def test_a_mistake_shows_at_the_call(adapters, message, adapted, prompts):
    """It is raised before the first step, when a caller may already have displayed the prompt."""
    with pytest.raises(lora.AdapterError, match=message):
        stream(adapted, prompts(0, 3, 4), 5, adapters=adapters)


def test_a_mistake_in_text_shows_at_the_call(make_adapted):
    model = make_adapted(vocab_size=256)
    with pytest.raises(lora.AdapterError, match="there is no adapter 'bard'"):
        write_stream(model, "x", 5, adapters="bard")
    lora.merge(model)
    with pytest.raises(lora.AdapterError, match=r"cannot choose .* call lora\.unmerge\(model\) first"):
        write_stream(model, "x", 5, adapters="a")
