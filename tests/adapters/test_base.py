"""The base model of an adapter: recorded when it is saved, found when it is used, and recognized by its weights."""

import json
import shutil
import warnings

import numpy as np
import pytest

import minilora as ml
from minilora import lora
from minilora.adapters.fingerprint import fingerprint
from minilora.assets import BASE, VOICES
from minilora.nn import Llama


@pytest.fixture
def tuned(tmp_path):
    """The folders of a base whose weights differ from the packaged base, and of an adapter for it."""
    model = ml.load_model()
    model.model.layers[0].self_attn.q_proj.weight.data *= 1.5
    model.save_pretrained(tmp_path / "tuned")
    model = ml.load_model(tmp_path / "tuned")
    lora.inject(model, r=1)
    lora.save_adapter(model, tmp_path / "adapter")
    return tmp_path / "tuned", tmp_path / "adapter"


def set_base(adapter, name):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": name}))


def test_it_is_recorded_and_found(tuned, monkeypatch, tmp_path):
    base, adapter = tuned
    monkeypatch.chdir(tmp_path)
    model = ml.load_model("tuned")  # a relative path is recorded in full
    lora.inject(model, r=1)
    lora.save_adapter(model, "other")
    monkeypatch.chdir("/")
    assert lora.find_base(adapter) == lora.find_base(tmp_path / "other") == base
    assert lora.find_base("shakespeare") == lora.find_base() == BASE


def test_a_base_that_moved(tuned, tmp_path):
    base, adapter = tuned
    base.rename(tmp_path / "moved")
    with pytest.raises(
        lora.AdapterError, match=r"the base of .*, '.*tuned', is not on this machine; specify its folder with"
    ):
        lora.find_base(adapter)


def test_the_packaged_base_of_another_machine(tmp_path):
    model = ml.load_model()
    lora.inject(model, r=1)
    lora.save_adapter(model, tmp_path, base="/home/anna/minilora/assets/base")
    assert lora.find_base(tmp_path) == BASE


@pytest.mark.parametrize("name", ["meta/llama", "//server/share", r"\\server\share"])
def test_a_base_that_is_not_here_and_has_no_fingerprint(name, tmp_path):
    shutil.copytree(VOICES / "python", tmp_path / "adapter")
    set_base(tmp_path / "adapter", name)
    with pytest.warns(UserWarning, match="is not on this machine; using the packaged base model"):
        assert lora.find_base(tmp_path / "adapter") == BASE


def test_adapters_of_different_bases(tuned, tmp_path):
    base, adapter = tuned
    with pytest.raises(lora.AdapterError, match=r"trained on different base models, .*tuned and .*; choose one with"):
        lora.find_base(adapter, "python")
    shutil.copytree(base, tmp_path / "copy")
    shutil.copytree(adapter, tmp_path / "second")
    set_base(tmp_path / "second", str(tmp_path / "copy"))
    assert lora.find_base(adapter, tmp_path / "second") == base  # the same weights in two places


def test_loading_on_other_weights_warns(tuned):
    base, adapter = tuned
    with pytest.warns(UserWarning, match=r"adapter was trained on a base model with different weights and may not"):
        lora.load_adapter(ml.load_model(), adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lora.load_adapter(ml.load_model(base), adapter)


def test_the_fingerprint_is_that_of_the_base_alone(unit_llama, attach, tmp_path):
    model = unit_llama()
    before = fingerprint(model)
    attach(model)
    assert fingerprint(model) == before
    plain = unit_llama()
    plain.save_pretrained(tmp_path, "float16")
    assert fingerprint(Llama.from_pretrained(tmp_path)) == before
    for p in plain.parameters():
        kept = p.data.copy()
        p.data.reshape(-1)[::2] += np.float32(0.01)
        assert fingerprint(plain) != before
        p.data[...] = kept
    assert fingerprint(plain) == before


def test_weights_that_changed_in_memory_are_not_those_of_the_folder(tuned, tmp_path):
    base, adapter = tuned
    model = ml.load_model(base)
    lora.load_adapter(model, adapter)
    lora.merge_and_unload(model)
    assert model.name_or_path == ""
    lora.inject(model, r=1)
    lora.save_adapter(model, tmp_path / "next")
    with pytest.raises(
        lora.AdapterError, match="is not recorded, and it is not the packaged base; specify its folder with"
    ):
        lora.find_base(tmp_path / "next")
    model = ml.load_model(base)
    ids = np.arange(300) % 256
    ml.train(model, ids, ids, iters=1, context=8, quiet=True)
    assert model.name_or_path == ""
    model.save_pretrained(tmp_path / "trained")
    lora.inject(model, r=1)
    lora.save_adapter(model, tmp_path / "last")
    assert lora.find_base(tmp_path / "last") == tmp_path / "trained"


@pytest.mark.parametrize("name", ["a\0b", "x" * 9000, "\ud800", "/dev/null", ""])
def test_a_recorded_name_is_untrusted(name, tmp_path):
    shutil.copytree(VOICES / "python", tmp_path / "adapter")
    set_base(tmp_path / "adapter", name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert lora.find_base(tmp_path / "adapter") == BASE


def test_the_name_of_a_base_may_be_a_path(tuned, tmp_path):
    base, _ = tuned
    model = ml.load_model(base)
    lora.inject(model, r=1)
    lora.save_adapter(model, tmp_path / "one", base=base)
    assert lora.find_base(tmp_path / "one") == base
    with pytest.raises(TypeError, match="expected the name or path of a base model, got 5"):
        lora.save_adapter(model, tmp_path / "two", base=5)
    assert not (tmp_path / "two").exists()
