"""From a seed to a text: what repeats, what differs, what is refused."""

import numpy as np
import pytest

from minilora import lora
from minilora.autograd import Tensor, no_grad
from minilora.generation import Sampler, generate, stream, write, write_stream


def rows(model, texts, seed=0):
    return [row.tolist() for row in generate(model, texts, 30, Sampler(1.0), seed)]


def records():
    """Whether operations on tensors that want a gradient are recorded at the moment."""
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
    """What is chosen, whatever the scores: the bytes of this text."""
    text = "é → 日本 🦙!"
    left = iter(text.encode())
    monkeypatch.setattr(Sampler, "choose", lambda self, logits, draws: np.array([next(left)]))
    return text


def test_a_character_of_several_bytes_comes_when_its_last_byte_has(make_model, script):
    size = len(script.encode())
    pieces = list(write_stream(make_model(vocab_size=256), "x", size))
    assert "".join(pieces) == script
    assert [piece for piece in pieces if piece] == list(script)
    assert len(pieces) == size + 1  # one for each byte, and the end


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
        assert records()  # also between two tokens
    next(stream(adapted, prompts(0, 2), 3))  # and when nobody reads to the end
    assert records()
    with no_grad():
        generate(adapted, prompts(0, 2), 20)
        assert not records()
    assert {name: array.tobytes() for name, array in adapted.state_dict().items()} == before
    assert all(p.grad is None for p in adapted.parameters())


@pytest.mark.parametrize(
    ("lengths", "tokens", "words"),
    [
        ([3, 13], 5, "a prompt should have 1 to 12 tokens, the model's context; this one has 13"),
        ([3, 0], 5, "this one has 0"),
        ([3], 0, "at least one token to write, got 1 and 0"),
        ([], 5, "at least one prompt .* got 0 and 5"),
    ],
)
def test_what_cannot_be_written_shows_before_anything_is(lengths, tokens, words, make_model, prompts):
    """Not at the first step, when the prompt may be on the screen already."""
    with pytest.raises(ValueError, match=words) as caught:
        stream(make_model(), prompts(0, *lengths), tokens)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", ["", "123456é7890123"])
def test_what_cannot_be_written_as_text(prompt, make_model):
    with pytest.raises(ValueError, match="a prompt should have 1 to 12 tokens"):
        write_stream(make_model(vocab_size=256), prompt, 5)
