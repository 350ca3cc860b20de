"""`write(model, prompt, temperature=0.7)`: sampler settings as keyword arguments."""

import re

import numpy as np
import pytest

from minilora.generation import Sampler, generate, stream, write, write_stream


@pytest.fixture
def model(make_model):
    return make_model(vocab_size=256)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"temperature": 2, "top_k": 3}, {"top_p": 0.5}], ids=str)
def test_settings_are_those_of_a_sampler(settings, model):
    sampler = Sampler(**settings)
    prompt = np.array([7, 8, 9])
    expected = write(model, "ab", 9, sampler)
    assert write(model, "ab", 9, **settings) == expected
    assert "".join(write_stream(model, "ab", 9, **settings)) == expected
    expected = generate(model, [prompt], 9, sampler)[0].tolist()
    assert generate(model, [prompt], 9, **settings)[0].tolist() == expected
    assert [column[0] for column in stream(model, [prompt], 9, **settings)] == expected


def test_a_text_has_a_hundred_tokens_by_default(model):
    assert write(model, "ab", temperature=1) == write(model, "ab", 100, Sampler(1))


@pytest.mark.parametrize("call", [write, write_stream], ids=lambda call: call.__name__)
def test_a_sampler_and_settings_together_are_refused(call, model):
    message = "expected a sampler or temperature, top_k, got both; pass the settings to the sampler"
    with pytest.raises(ValueError, match=re.escape(message)):
        "".join(call(model, "ab", 9, Sampler(), temperature=0.7, top_k=2))


def test_an_unknown_setting_is_named(model):
    with pytest.raises(TypeError, match="'temprature'"):
        write(model, "ab", 9, temprature=0.7)
