"""The end of a text: after an end token, before a stop string, or at the maximum number of tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.generation import Request, Sampler, decode, generate, stream, write, write_stream
from tests.generation.texts import Script, alone

IDS = [1, 2, 5, 3, 5, 4]


def ends(model, stop, tokens=6):
    """Return the ids and finish reasons of a text for which the chooser prescribes IDS."""
    text = alone(model, Request(np.array([5, 1]), tokens, Script(IDS), stop=stop))
    return [token.id for token in text], [token.finish_reason for token in text]


@pytest.mark.parametrize("stop", [[5], {5, 9}, (5,), frozenset([9, 3, 5]), np.array([5])], ids=repr)
def test_a_token_in_stop_ends_the_text_and_is_its_last(stop, make_model):
    """A stop token in the prompt does not end the text."""
    assert ends(make_model(), stop) == ([1, 2, 5], [None, None, "stop"])


@pytest.mark.parametrize(("eos", "number"), [(3, 4), ([3], 4), ([4, 5], 3), ((2, 1), 1), (None, 6), (0, 6)])
def test_without_stop_the_end_tokens_of_the_model_end_the_text(eos, number, make_model):
    reason = "length" if number == 6 else "stop"
    assert ends(make_model(eos_token_id=eos), None) == (IDS[:number], [None] * (number - 1) + [reason])


@pytest.mark.parametrize("stop", [(), [], set(), [7]], ids=repr)
def test_a_stop_without_the_end_tokens_ignores_them(stop, make_model):
    assert ends(make_model(eos_token_id=[2, 5]), stop) == (IDS, [None] * 5 + ["length"])


def test_an_end_token_as_the_last_token_is_a_stop(make_model):
    assert ends(make_model(), [5], tokens=3) == ([1, 2, 5], [None, None, "stop"])
    assert ends(make_model(), [5], tokens=2) == ([1, 2], [None, "length"])


def test_a_text_that_stops_leaves_the_others_to_go_on(make_model):
    scripts, stops = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [3, 4, 5, 6, 7]], [[3], (), [3]]
    asked = [Request(np.array([1]), 5, Script(ids), stop=stop) for ids, stop in zip(scripts, stops, strict=True)]
    steps = decode(make_model(), asked)
    found = [[(asked.index(token.request), token.id, token.finish_reason) for token in step] for step in steps]
    assert found == [
        [(0, 1, None), (1, 6, None), (2, 3, "stop")],
        [(0, 2, None), (1, 7, None)],
        [(0, 3, "stop"), (1, 8, None)],
        [(1, 9, None)],
        [(1, 10, "length")],
    ]


def test_ids_end_with_the_end_token_and_a_written_text_before_it(make_model):
    model = make_model(vocab_size=256, eos_token_id=[ord("."), ord("!")])
    ids = np.array([65])
    assert generate(model, [ids], 9, Script(b"Oh! no"))[0].tolist() == list(b"Oh!")
    assert list(stream(model, [ids], 9, Script(b"Oh! no"))) == [[byte] for byte in b"Oh!"]
    assert write(model, "A.", 9, Script(b"Oh! no")) == "Oh"
    assert write(model, "A.", 2, Script(b"Oh! no")) == "Oh"
    assert write(model, "A.", 3, Script(b"Oh! no")) == "Oh"
    assert write(model, "A.", 9, Script(b".no")) == ""
    assert write(model, "A.", 9, Script("né".encode()[:2] + b".")) == "n\N{REPLACEMENT CHARACTER}"


def continued(model, text, stop, tokens=None):
    """Return the pieces from `write_stream` for a text that the chooser prescribes."""
    data = text.encode()
    return list(write_stream(model, "ab", tokens or len(data), Script(data), stop=stop))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one\ntwo\n", "\n", "one"),
        ("one\n\ntwo", "\n\n", "one"),
        ("one\ntwo\n\n", "\n\n", "one\ntwo"),
        ("one\ntwo", "\n\n", "one\ntwo"),
        ("one\n", "\n\n", "one\n"),  # the held-back end is returned
        ("xaaab!", "aab", "xa"),
        ("ababac!", "abac", "ab"),
        ("one two", ["two", "one"], ""),
        ("one two", ["no", "two", "wo"], "one "),
        ("the end", ["end of", "he e"], "t"),
        ("abcd", ["abcd", "c"], "ab"),  # of two that overlap, the first to be completed
        ("xabc", ["bc", "abc"], "x"),  # of two completed at once, the first to start
        ("Grüße, Jürgen", "ü", "Gr"),
        ("Grüße, Jürgen", "ür", "Grüße, J"),
        ("日本🦙語", ["🦙語"], "日本"),
        ("stop", "stop", ""),
        ("stop", (), "stop"),
        ("stop", [], "stop"),
        ("ab", "ba", "ab"),  # the prompt "ab" is not searched
    ],
)
def test_a_text_ends_before_the_text_that_stops_it(text, stop, expected, make_model):
    model = make_model(vocab_size=256)
    assert "".join(continued(model, text, stop)) == expected
    assert write(model, "ab", len(text.encode()), Script(text.encode()), stop=stop) == expected


@pytest.fixture(scope="module")
def bytes_model(make_model):
    return make_model(vocab_size=256)


@given(text=st.text("abé", min_size=1, max_size=11), stops=st.lists(st.text("abé", min_size=1, max_size=4), max_size=3))
def test_each_piece_comes_as_soon_as_it_cannot_begin_a_text_to_stop_at(text, stops, bytes_model):
    """After n bytes, all characters have been returned except those at the end that may begin a stop string."""
    pieces, data, ended = continued(bytes_model, text, stops), text.encode(), False
    for n in range(1, len(data) + 1):
        shown, ended = visible(data[:n].decode(errors="ignore"), stops)
        assert "".join(pieces[:n]) == shown
        if ended:
            assert len(pieces) == n
            return
    assert "".join(pieces) == text


def visible(text, stops):
    """Return the part of the text so far that can be shown, and whether the text has ended."""
    complete = [text.index(stop) for stop in stops if stop in text]
    if complete:
        return text[: min(complete)], True
    held = next((i for i in range(len(text)) if any(stop.startswith(text[i:]) for stop in stops)), len(text))
    return text[:held], False


def test_nothing_more_is_computed_once_a_text_has_ended(bytes_model):
    script = Script(b"one\ntwo")
    assert write(bytes_model, "x", 7, script, stop="\n") == "one"
    assert list(script.left) == list(b"two")


@pytest.mark.parametrize("stop", ["", ["a", ""]], ids=repr)
def test_an_empty_text_to_stop_at_is_refused_at_the_call(stop, bytes_model):
    with pytest.raises(ValueError, match="expected `stop` to be a non-empty string, or a list of them, got "):
        write_stream(bytes_model, "x", 5, stop=stop)


def test_stopping_changes_no_token_before_the_end(bytes_model):
    whole = write(bytes_model, "x", 60, Sampler(1.0), seed=1)
    stop = whole[20:22]
    assert write(bytes_model, "x", 60, Sampler(1.0), 1, stop=stop) == whole[: whole.index(stop)]
