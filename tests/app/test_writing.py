"""The first tab generates the same texts as `generation.write` and reports invalid input in a sentence."""

import math

import pytest

from minilora import lora
from minilora.app import writing
from minilora.assets import BASE
from minilora.generation import Sampler, write
from minilora.nn import Llama
from minilora.voices import voice_folder

WISH = writing.PageRequest("The king ", {"shakespeare": 1.0}, 0.8, 0, 60)


def last(model, request, **options):
    *_, end = writing.write(model, request, **options)
    return end


def request(**changes):
    fields = {"prompt": "The king ", "strengths": {"python": 1.0}, "temperature": 0.8, "seed": 0, "tokens": 60}
    return writing.page_request(**{**fields, **changes})


def test_without_any_strength_both_texts_are_the_bases(model):
    assert request(strengths={"python": 0, "recipe": -0.5, "scripture": 0.0}).strengths == {"recipe": -0.5}
    base, voices = last(model, request(strengths={"shakespeare": 0, "python": 0.0}))
    assert base.text == voices.text == write(Llama.from_pretrained(BASE), "The king ", 60, Sampler(0.8), 0)
    assert {token.log_ratio for token in voices.tokens} == {0.0}


def test_at_strength_one_the_text_is_the_merged_models(model):
    merged = Llama.from_pretrained(BASE)
    lora.load_adapter(merged, voice_folder("shakespeare"))
    lora.merge_and_unload(merged)
    base, voices = last(model, WISH)
    assert voices.text == write(merged, "The king ", 60, Sampler(0.8), 0) != base.text


def test_temperature_seed_and_length_are_heeded(model):
    base, voices = last(model, request(temperature=0.3, seed=7.0, tokens=40, strengths={"python": -0.5}))
    assert base.text == write(model, "The king ", 40, Sampler(0.3), 7)
    assert voices.text == write(model, "The king ", 40, Sampler(0.3), 7, adapters={"python": -0.5})


def test_the_texts_grow(model, monkeypatch):
    monkeypatch.setattr(writing, "PAUSE", -1)
    lengths = [(len(base.tokens), len(voices.tokens)) for base, voices in writing.write(model, WISH)]
    assert lengths == [*((n, n) for n in range(1, 61)), (60, 60)]


def test_stop_ends_it(model):
    base, voices = last(model, WISH, stopped=lambda: True)
    assert len(base.tokens) == len(voices.tokens) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "The prompt is empty"),
        ({"prompt": "é" * 101}, "has 202 bytes; the limit is 200"),
        ({"prompt": "a\ud800"}, "lone surrogate"),
        ({"seed": None}, "whole number"),
        ({"seed": math.nan}, "whole number"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": -1}, "whole number"),
        ({"seed": 2**32}, "whole number"),
        ({"tokens": 401}, "length must be a number from 1 to 400"),
        ({"temperature": None}, "temperature must be"),
        ({"temperature": -0.1}, "temperature must be a number from 0 to 1.5"),
        ({"strengths": {"python": 2.5}}, "strength of python must be a number from -1 to 2"),
    ],
)
def test_what_cannot_be_written_is_said(changes, message):
    with pytest.raises(ValueError, match=message):
        request(**changes)


def test_the_limits_themselves_are_allowed(model):
    longest = request(
        prompt="é" * 100, tokens=400, seed=2**32 - 1, temperature=0, strengths={"python": 2, "recipe": -1}
    )
    assert len(last(model, longest, stopped=lambda: True)[0].tokens) == 1
