"""Comparing voices: each text is the one its voice generates on its own, and ratios match full forward passes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import lora
from minilora.assets import BASE
from minilora.generation import Sampler, write
from minilora.nn import Llama, LlamaConfig
from minilora.voices import ComparedText, ComparedToken, compare, stream

CONTEXT = 24
TARGETS = {"bard": "all-linear", "cook": ["q_proj", "up_proj"], "log": r".*\.1\..*"}


@pytest.fixture(scope="module")
def model():
    """A byte-level model of unit scale in float64 with three adapters of large effect; "log" is active."""
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=256, max_position_embeddings=CONTEXT, initializer_range=0.6, **shape)
    model = Llama(config, np.random.default_rng(0))
    model.astype(np.float64)
    for r, (name, targets) in enumerate(TARGETS.items(), 2):
        options = lora.LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets, init_lora_weights=False)
        lora.inject(model, options, adapter=name, rng=np.random.default_rng(r))
    return model


def log_p(model, text, adapters):
    """Return log p of the next token after `text` (bytes), from one full forward pass."""
    logits = model(np.frombuffer(text, np.uint8)[None].astype(int), adapters=adapters).data[0, -1]
    return logits - np.log(np.exp(logits).sum())


mixes = st.one_of(
    st.none(),
    st.just("base"),
    st.sampled_from(sorted(TARGETS)),
    st.dictionaries(st.sampled_from(sorted(TARGETS)), st.floats(-2, 2), max_size=3),
)


@settings(max_examples=25)
@given(voices=st.lists(mixes, min_size=1, max_size=4), tokens=st.integers(1, 40), seed=st.integers(0, 99))
def test_each_text_is_what_its_voices_write_alone(voices, tokens, seed, model):
    """A text does not depend on the other texts or the active adapters, even far beyond the context."""
    texts = compare("The k", voices, seed, tokens=tokens, sampler=Sampler(1.1, top_k=50), model=model)
    for voice, text in zip(voices, texts, strict=True):
        alone = {} if voice in (None, "base") else voice
        assert text.text == write(model, "The k", tokens, Sampler(1.1, top_k=50), seed, alone)
        assert len(text.tokens) == tokens
    assert lora.active(model) == {"log": 1.0}


@settings(max_examples=15)
@given(seed=st.integers(0, 99), a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_ratios_are_those_of_whole_forward_passes(seed, a, b, model):
    mix, prompt = {"bard": a, "cook": b}, "Once"
    (text,) = compare(prompt, [mix], seed, tokens=CONTEXT - len(prompt), sampler=Sampler(0.5), model=model)
    found = list(stream(model, prompt, [mix], seed, tokens=CONTEXT - len(prompt), sampler=Sampler(0.5)))
    assert [token.log_ratio for token in text.tokens] == [token.log_ratio for (token,) in found]
    past = prompt.encode()
    for token in text.tokens:
        id, base = token.id, log_p(model, past, {})
        np.testing.assert_allclose(token.log_p, log_p(model, past, mix), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(token.base_log_p, base, rtol=1e-9, atol=1e-9)
        assert token.log_ratio == pytest.approx((log_p(model, past, mix) - base)[id], rel=1e-7, abs=1e-9)
        assert set(token.by_voice) == {name for name, s in mix.items() if s}
        for name, ratio in token.by_voice.items():
            alone = log_p(model, past, {name: mix[name]})
            assert ratio == pytest.approx((alone - base)[id], rel=1e-7, abs=1e-9)
        past += bytes([token.id])
    assert len(past) == CONTEXT


def test_meters_are_means_over_the_characters(model):
    (text,) = compare("The", [{"bard": 0.5, "cook": 1.5}], tokens=30, model=model)
    assert text.meter == pytest.approx(sum(token.log_ratio for token in text.tokens) / len(text.text))
    assert text.meters["cook"] == pytest.approx(sum(token.by_voice["cook"] for token in text.tokens) / len(text.text))
    assert list(text.meters) == ["bard", "cook"]
    assert len({text.meter, *text.meters.values()}) == 3


def test_a_character_of_several_bytes_has_the_sum_of_their_ratios():
    parts = [("a", 0.5), ("", 4.0), ("é", -1.0), ("", 1.0), ("\ufffdb", 2.0), ("", 9.0)]
    text = ComparedText({}, [ComparedToken(0, text, ratio, {}, None, None) for text, ratio in parts])
    assert text.characters == [("a", 0.5), ("é", 3.0), ("\ufffdb", 3.0)]
    assert text.meter == 15.5 / 4
    assert ComparedText({}, []).meter == 0


def test_strengths_that_overflow_are_refused(model):
    with pytest.raises(ValueError, match="logits are not finite; reduce the strengths of the adapters"):
        compare("The", [{"bard": 1e308}], tokens=5, model=model)


def test_the_base_and_a_voice_of_strength_zero_are_no_further_from_the_base_than_zero(model):
    base, *others, loud = compare("The", ["base", None, {}, {"bard": 0, "log": 0.0}, "log"], tokens=60, model=model)
    for text in (base, *others):
        assert (text.strengths, text.meter, text.meters) == ({}, 0, {})
        assert text.tokens == base.tokens
        assert all(token.log_ratio == 0 for token in text.tokens)
    assert loud.text != base.text
    assert loud.meters == {"log": loud.meter}  # a single voice has one meter


def test_every_byte_of_a_text_is_kept_though_characters_have_several_bytes(model):
    """Nearly uniform random bytes form characters of one to four bytes, invalid ones, and an incomplete last one."""
    for seed in range(20):
        (text,) = compare("é", ["bard"], seed, tokens=9, sampler=Sampler(50.0), model=model)
        assert text.text == write(model, "é", 9, Sampler(50.0), seed, "bard")
        assert len(text.tokens) == 9
        assert bytes(token.id for token in text.tokens).decode(errors="replace") == text.text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"voices": ["brad"]}, "there is no adapter 'brad'; the model has bard, cook, log"),
        ({"voices": [{"bard": float("nan")}]}, "the strength of 'bard' should be a finite number, got nan"),
        ({"prompt": "x" * 25}, r"expected a prompt of 1 to 24 tokens \(the model's context\), got 25"),
        ({"tokens": 0}, "expected `tokens` to be at least 1, got 0"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(wrong, says, model):
    call = {"prompt": "The", "voices": ["bard"], "tokens": 5, **wrong}
    with pytest.raises(ValueError, match=says):
        stream(model, call["prompt"], call["voices"], tokens=call["tokens"])
    with pytest.raises(ValueError, match=says):
        compare(call["prompt"], call["voices"], tokens=call["tokens"], model=model)


def test_an_adapter_folder_is_compared_by_its_path(tmp_path, monkeypatch):
    """Also within a mixture, and with the name of an existing adapter; a folder called base is not the base's."""
    monkeypatch.chdir(tmp_path)
    own = Llama.from_pretrained(BASE)
    lora.inject(own, r=2, init_lora_weights=False, rng=3)
    lora.save_adapter(own, "runs/python")
    (tmp_path / "base").mkdir()
    mixes = ["base", "runs/python", {"runs/python": 0.5, "python": 0.5}, "python"]
    texts = compare("The king ", mixes, tokens=20)
    assert [text.strengths for text in texts] == [
        {},
        {"python_2": 1.0},
        {"python_2": 0.5, "python": 0.5},
        {"python": 1.0},
    ]
    assert texts[0].text == write(Llama.from_pretrained(BASE), "The king ", 20)
    assert texts[1].text == write(own, "The king ", 20)
    assert texts[3].text == compare("The king ", "python", tokens=20)[0].text != texts[1].text
    with pytest.raises(
        lora.AdapterError, match=r"runs/mine is not an adapter folder: .*the name of a packaged voice: fairytale, "
    ):
        compare("The king ", ["runs/mine"])


def test_folders_of_the_same_name_are_told_apart(tmp_path, monkeypatch):
    """Also from a folder whose name looks like a number appended to another."""
    monkeypatch.chdir(tmp_path)
    own, folders = Llama.from_pretrained(BASE), ["a/python_2", "b/python", "c/python"]
    lora.inject(own, r=1)
    for folder in folders:
        lora.save_adapter(own, folder)
    texts = compare("The king ", folders, tokens=2)
    assert [[*text.strengths] for text in texts] == [["python_2"], ["python_3"], ["python_4"]]


def test_a_printed_comparison_has_all_texts(model):
    texts = compare("The", ["base", "bard"], tokens=5, model=model)
    first, second = str(texts).split("\n\n")
    assert first.startswith("base\nThe")
    assert second.startswith(f"bard, style meter {texts[1].meter:+.2f} nats per character\nThe")
    assert str(texts[1]) == texts[1].text
