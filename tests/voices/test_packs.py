"""The packaged voices: each matches its model card, leaves the base unchanged, and is distinguishable."""

import itertools
import json

import numpy as np
import pytest

from minilora import lora
from minilora.assets import BASE, VOICES
from minilora.data import ByteTokenizer
from minilora.generation import write
from minilora.nn import Llama
from minilora.runs import load_settings
from minilora.voices import NAMES, attach, compare, voice_folder, voices

IDS = np.random.default_rng(0).integers(32, 127, (3, 100))


@pytest.fixture(scope="module")
def model():
    return attach()


def test_all_voices_are_listed():
    assert [voice.name for voice in voices()] == list(NAMES)
    assert {folder.name for folder in VOICES.iterdir() if folder.is_dir()} == set(NAMES)
    with pytest.raises(ValueError, match="unknown voice 'bard'; available voices: shakespeare, scripture"):
        voice_folder("bard")


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_is_small_and_was_made_by_its_preset(name):
    assert sum(file.stat().st_size for file in voice_folder(name).iterdir()) <= 400_000
    recorded, preset = load_settings(str(voice_folder(name) / "run.toml")), load_settings(name)
    used = {"corpus", "base", "method", "dtype", "adapter", "training"}
    assert {k: getattr(recorded, k) for k in used} == {k: getattr(preset, k) for k in used}
    config, tensors = lora.read_adapter(voice_folder(name))
    assert config.r == preset.adapter.r
    assert config.scaling("q_proj") == preset.adapter.scaling("q_proj")
    assert {array.dtype.name for array in tensors.values()} == {"float16"}


@pytest.mark.parametrize("voice", voices(), ids=NAMES)
def test_a_card_says_what_was_measured(voice):
    card, f = (voice.folder / "README.md").read_text(encoding="utf-8"), voice.metrics
    assert f"**{f['before']:.4f} → {f['after']:.4f} nats per character**" in card
    assert f"| {f['base_off']:.4f} → {f['base_on']:.4f}," in card
    history = json.loads((voice.folder / "history.json").read_text())
    assert abs(history["evaluations"][-1][1] - f["after"]) < 1e-3  # equal up to rounding to float16
    assert len(history["losses"]) == load_settings(voice.name).training.iters
    sample = write(attach(), "The king ", 350, adapters=voice.name)
    assert f"```\nThe king {sample.rstrip()}\n```" in card


@pytest.mark.parametrize("voice", voices(), ids=NAMES)
def test_a_voice_has_learned_its_own_text_and_forgot_some_of_the_bases(voice):
    f = voice.metrics
    assert f["after"] < 0.75 * f["before"]
    assert f["base_off"] < f["base_on"]
    assert voice.name != "shakespeare" or f["after"] <= 1.62


def test_without_a_voice_the_base_is_the_same_bit_for_bit(model):
    base = Llama.from_pretrained(BASE)
    base.eval()
    expected = base(IDS).data
    assert np.array_equal(model(IDS).data, expected)
    assert np.array_equal(model(IDS, adapters={}).data, expected)
    for name in NAMES:
        assert not np.array_equal(model(IDS, adapters=name).data, expected)
        assert np.array_equal(model(IDS).data, expected)
    for name, array in base.state_dict().items():
        assert np.array_equal(array, model.state_dict()[name])


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(NAMES, 2)))
def test_two_voices_at_half_strength_are_a_mixture(one, two, model):
    """The text is more likely under each of the two voices than under the base."""
    (text,) = compare("The king ", [{one: 0.5, two: 0.5}], tokens=240, model=model)
    assert min(text.meters.values()) > 0.05, text.meters


def test_the_voices_are_told_apart():
    """Each text is most likely under the voice that generated it."""
    texts = dict(zip(NAMES, compare("The king ", NAMES, tokens=240), strict=True))
    model, losses = attach(), {}
    for name in NAMES:
        lora.set_active(model, name)
        for writer, text in texts.items():
            ids = ByteTokenizer().encode("The king " + text.text)[None]
            losses[writer, name] = model.loss(ids[:, :-1], ids[:, 1:]).item()
    for writer in NAMES:
        assert min(NAMES, key=lambda name: losses[writer, name]) == writer, losses
