"""Seeds, bytes and characters, active adapters, and refused requests."""

import re

import numpy as np
import pytest

from minilora import lora
from minilora.autograd import Tensor, no_grad
from minilora.generation import Decoding, Request, Sampler, generate, stream, write, write_stream

NO_ARRAY = "expected each prompt to be a one-dimensional integer array of ids"


def rows(model, texts, seed=0):
    return [row.tolist() for row in generate(model, texts, 30, Sampler(1.0), seed)]


def records():
    """Return whether operations on tensors with requires_grad are currently recorded."""
    return (Tensor(np.ones(2), requires_grad=True) * 2).requires_grad


def test_another_seed_and_another_row_with_the_same_prompt_write_something_else(make_model, prompts):
    model, texts = make_model(), prompts(1, 3) * 2
    one, two = rows(model, texts, seed=5)
    other, _ = rows(model, texts, seed=6)
    assert one != two
    assert one != other


def test_a_model_of_bytes_writes_text(make_model):
    model = make_model(vocab_size=256)
    text = write(model, "Grüße", 20, Sampler(1.0), seed=1)
    ids = generate(model, [np.frombuffer("Grüße".encode(), dtype=np.uint8)], 20, Sampler(1.0), seed=1)[0]
    assert text == bytes(ids.tolist()).decode(errors="replace")
    assert text == "".join(write_stream(model, "Grüße", 20, Sampler(1.0), seed=1))
    assert text != write(model, "Grüße", 20, Sampler(1.0), seed=2)


@pytest.fixture
def script(monkeypatch):
    """A text whose bytes the patched sampler returns in order, whatever the logits."""
    text = "é → 日本 🦙!"
    left = iter(text.encode())
    monkeypatch.setattr(Sampler, "choose", lambda self, logits, draws: np.array([next(left)]))
    return text


def test_a_character_of_several_bytes_comes_when_its_last_byte_has(make_model, script):
    data = script.encode()
    pieces = list(write_stream(make_model(vocab_size=256), "x", len(data)))
    assert "".join(pieces) == script
    for n in range(1, len(data) + 1):  # after n bytes, all complete characters have been returned
        assert "".join(pieces[:n]) == data[:n].decode(errors="ignore")


def test_a_character_that_is_cut_is_shown_as_cut(make_model, script):
    text = write(make_model(vocab_size=256), "x", len(script.encode()) - 2)
    assert text == script[:-2] + "\N{REPLACEMENT CHARACTER}"


def test_the_active_adapters_write(adapted, make_model, prompts):
    texts = prompts(2, 4)
    base = rows(make_model(), texts)
    written = {}
    for choice in ("a", "b", None):
        lora.set_active(adapted, choice)
        written[choice] = rows(adapted, texts)
    assert written[None] == base
    assert len({str(text) for text in written.values()}) == 3
    lora.set_active(adapted, {"a": 1.0, "b": 0.0})
    assert rows(adapted, texts) == written["a"]
    lora.set_active(adapted, {"a": 0.7, "b": 0.3})
    mixed = rows(adapted, texts)
    assert mixed not in written.values()
    lora.merge(adapted)
    assert rows(adapted, texts) == mixed


def test_nothing_is_recorded_and_recording_and_the_model_are_left_as_they_were(adapted, prompts):
    before = {name: array.tobytes() for name, array in adapted.state_dict().items()}
    for _ in stream(adapted, prompts(0, 2), 3):
        assert records()  # even between two tokens
    next(stream(adapted, prompts(0, 2), 3))  # and if the stream is not exhausted
    assert records()
    with no_grad():
        generate(adapted, prompts(0, 2), 20)
        assert not records()
    assert {name: array.tobytes() for name, array in adapted.state_dict().items()} == before
    assert all(p.grad is None for p in adapted.parameters())


@pytest.mark.parametrize(
    ("lengths", "tokens", "words"),
    [
        ([3, 13], 5, r"expected a prompt of 1 to 12 tokens \(the model's context\), got 13"),
        ([3, 0], 5, r"\(the model's context\), got 0"),
        ([3], 0, "expected `tokens` to be at least 1, got 0"),
        ([3], -2, "expected `tokens` to be at least 1, got -2"),
        ([], 5, "expected at least one prompt, got none"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_at_the_call(lengths, tokens, words, make_model, prompts):
    """It is refused before the first step, when a caller may already have displayed the prompt."""
    with pytest.raises(ValueError, match=words) as caught:
        stream(make_model(), prompts(0, *lengths), tokens)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([3, 17, 18]), "expected prompt ids from 0 to 16, got 18"),
        (np.array([3, 17]), "expected prompt ids from 0 to 16, got 17"),
        (np.array([16, -1]), "expected prompt ids from 0 to 16, got -1"),
        ([1, 2, 3], NO_ARRAY),
        ("abc", NO_ARRAY),
        (np.array([1.0, 2.0]), NO_ARRAY),
        (np.array([[1, 2]]), NO_ARRAY),
        (np.array(3), NO_ARRAY),
        (np.array([True, False]), NO_ARRAY),
    ],
    ids=repr,
)
def test_a_prompt_that_is_no_array_of_known_ids_is_refused(ids, message, make_model):
    """An invalid second prompt is refused before the first text is generated."""
    model = make_model()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        stream(model, [np.array([1, 2]), ids], 5)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Decoding(model).add(Request(ids, 5))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint64], ids=str)
def test_the_ids_at_both_ends_of_the_vocabulary_are_read_in_any_integer_type(kind, make_model):
    model, ids = make_model(), np.array([0, 16, 5])
    assert rows(model, [ids.astype(kind)]) == rows(model, [ids])


@pytest.mark.parametrize("prompt", ["", "123456é7890123"])
def test_a_prompt_of_text_that_is_empty_or_too_long_is_refused_at_the_call(prompt, make_model):
    with pytest.raises(ValueError, match="expected a prompt of 1 to 12 tokens"):
        write_stream(make_model(vocab_size=256), prompt, 5)
