"""From a seed to a text: what repeats, what differs, what is refused."""

import numpy as np
import pytest

from minilora import lora
from minilora.autograd import Tensor, no_grad
from minilora.generation import Sampler, generate, stream, write, write_stream

GREEDY = Sampler(temperature=0)


def rows(model, texts, tokens=30, sampler=None, seed=0):
    return [row.tolist() for row in generate(model, texts, tokens, sampler or Sampler(1.0), seed)]


def records():
    """Whether operations on tensors that want a gradient are recorded at the moment."""
    return (Tensor(np.ones(2), requires_grad=True) * 2).requires_grad


@pytest.fixture
def adapted(make_model):
    """A model with two adapters of unit scale, "a" and "b"; "b" is the active one."""
    model = make_model()
    for i, name in enumerate("ab"):
        config = lora.LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False)
        lora.inject(model, config, adapter=name, rng=np.random.default_rng(i))
    return model


def test_the_same_seed_repeats_and_another_differs(make_model, prompts):
    model, texts = make_model(), prompts(1, 3, 4)
    assert rows(model, texts, seed=5) == rows(model, texts, seed=5) != rows(model, texts, seed=6)


def test_rows_with_the_same_prompt_differ(make_model, prompts):
    one, two = rows(make_model(), prompts(1, 3) * 2)
    assert one != two


def test_temperature_zero_takes_the_likeliest_whatever_the_seed(make_model, prompts):
    model, texts = make_model(), prompts(1, 5)
    written = rows(model, texts, 8, GREEDY, seed=1)
    assert written == rows(model, texts, 8, GREEDY, seed=2)
    for n, token in enumerate(written[0][:7]):
        logits = model(np.concatenate([texts[0], written[0][:n]])[None].astype(int)).data[0, -1]
        assert token == logits.argmax()


def test_a_model_of_bytes_writes_text(make_model):
    model = make_model(vocab_size=256)
    text = write(model, "Grüße", 20, Sampler(1.0), seed=1)
    ids = generate(model, [np.frombuffer("Grüße".encode(), dtype=np.uint8)], 20, Sampler(1.0), seed=1)[0]
    assert text == bytes(ids.tolist()).decode(errors="replace")
    assert text == "".join(write_stream(model, "Grüße", 20, Sampler(1.0), seed=1))
    assert text != write(model, "Grüße", 20, Sampler(1.0), seed=2)


class Scripted(Sampler):
    """Always chooses what it was told to: here, the bytes of a text."""

    def choose(self, logits, draws):
        return np.array([SCRIPT.encode()[self.written.pop(0)]])


SCRIPT = "é → 日本 🦙!"


def scripted(pieces):
    sampler = Scripted()
    object.__setattr__(sampler, "written", list(range(pieces)))
    return sampler


def test_a_character_of_several_bytes_comes_when_its_last_byte_has(make_model):
    model, size = make_model(vocab_size=256), len(SCRIPT.encode())
    pieces = list(write_stream(model, "x", size, scripted(size)))
    assert "".join(pieces) == SCRIPT
    assert [piece for piece in pieces if piece] == list(SCRIPT)
    assert len(pieces) == size + 1  # one for each byte, and the end


def test_a_character_that_is_cut_is_shown_as_cut(make_model):
    model, size = make_model(vocab_size=256), len(SCRIPT.encode()) - 2
    assert write(model, "x", size, scripted(size)) == SCRIPT[:-2] + "\N{REPLACEMENT CHARACTER}"


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


def test_adapters_write_the_same_with_and_without_a_cache(adapted, prompts, without_cache):
    (prompt,) = prompts(2, 4)
    assert rows(adapted, [prompt], 30, GREEDY) == [without_cache(adapted, prompt, 30, GREEDY)]


def test_nothing_is_recorded_and_recording_is_left_as_it_was(adapted, prompts):
    assert any(p.requires_grad for p in adapted.parameters())
    for _ in stream(adapted, prompts(0, 2), 3):
        assert records()  # also between two tokens
    next(stream(adapted, prompts(0, 2), 3))  # and when nobody reads to the end
    assert records()
    with no_grad():
        generate(adapted, prompts(0, 2), 3)
        assert not records()
    assert records()
    assert all(p.grad is None and p.edges == () for p in adapted.parameters())


def test_the_model_is_not_changed(adapted, prompts):
    before = {name: array.tobytes() for name, array in adapted.state_dict().items()}
    generate(adapted, prompts(0, 5), 20)
    assert {name: array.tobytes() for name, array in adapted.state_dict().items()} == before


@pytest.mark.parametrize(
    ("lengths", "tokens", "words"),
    [
        ([13], 5, "a prompt should have 1 to 12 tokens, the model's context; this one has 13"),
        ([3, 13], 5, "this one has 13"),
        ([0], 5, "this one has 0"),
        ([3, 0], 5, "this one has 0"),
        ([3], 0, "at least one token to write, got 1 and 0"),
        ([3], -1, "at least one token to write, got 1 and -1"),
        ([], 5, "at least one prompt .* got 0 and 5"),
    ],
)
def test_what_cannot_be_written(lengths, tokens, words, make_model, prompts):
    with pytest.raises(ValueError, match=words) as caught:
        generate(make_model(), prompts(0, *lengths), tokens)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("prompt", "tokens"), [("", 5), ("123456é7890123", 5), ("x", 0)])
def test_what_cannot_be_written_as_text(prompt, tokens, make_model):
    with pytest.raises(ValueError, match=r"a prompt should have 1 to 12 tokens|at least one token"):
        write(make_model(vocab_size=256), prompt, tokens)


def test_a_mistake_shows_before_anything_is_written(make_model):
    """Not at the first step, when the prompt may be on the screen already."""
    with pytest.raises(ValueError, match="1 to 12 tokens"):
        stream(make_model(), [np.zeros(17, dtype=int)], 1)
    with pytest.raises(ValueError, match="1 to 12 tokens"):
        write_stream(make_model(), "x" * 17, 1)
