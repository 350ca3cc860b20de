"""Adapter folders: an adapter is saved under PEFT's names and loaded bit for bit, next to any other adapters."""

import json
import os

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.adapters.fingerprint import fingerprint
from minilora.files import read_metadata, read_tensors

OPTIONS = [
    {},
    {"target_modules": "all-linear", "use_rslora": True},
    {"target_modules": r".*\.[02]\.mlp\.(up|down)_proj", "rank_pattern": {"up_proj": 1, ".*": 2}},
    {"target_modules": ["lm_head", "q_proj"], "layers_to_transform": [1], "alpha_pattern": {"q_proj": 40, ".*": 1}},
    {"target_modules": "all-linear", "exclude_modules": ["up_proj"], "layers_to_transform": 2, "lora_dropout": 0.1},
]


def adapter_state(model, adapter):
    return {n.removesuffix(f".{adapter}"): a for n, a in model.state_dict().items() if n.endswith(f".{adapter}")}


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_float32_comes_back_bit_for_bit(options, unit_llama, attach, tmp_path, ids):
    model, other = attach(unit_llama(), "first", **options), unit_llama()
    lora.save_adapter(model, tmp_path / "deep" / "folder", "first")
    lora.load_adapter(other, str(tmp_path / "deep" / "folder"), "second")
    expected, found = adapter_state(model, "first"), adapter_state(other, "second")
    assert expected.keys() == found.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in expected.items())
    scalings = [{p: m.scaling[name] for p, m in hosts(m).items()} for m, name in ((model, "first"), (other, "second"))]
    assert scalings[0] == scalings[1]
    assert lora.active(other) == {"second": 1.0}
    np.testing.assert_array_equal(other(ids).data, model(ids).data)
    lora.save_adapter(other, tmp_path / "again", "second")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "deep" / "folder" / name).read_bytes()


def test_float16_comes_back_rounded(unit_llama, attach, tmp_path, ids):
    model, other = attach(unit_llama()), unit_llama()
    lora.save_adapter(model, tmp_path, dtype="float16")
    lora.load_adapter(other, tmp_path)
    for name, array in adapter_state(model, "default").items():
        found = adapter_state(other, "default")[name]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array.astype(np.float16).astype(np.float32))
    assert 0 < np.abs(other(ids).data - model(ids).data).max() < 5e-3 * np.abs(model(ids).data).max()


def test_a_float64_model_takes_a_float32_adapter(unit_llama, attach, tmp_path):
    lora.save_adapter(attach(unit_llama()), tmp_path)
    model = unit_llama()
    model.astype(np.float64)
    lora.load_adapter(model, tmp_path)
    assert {array.dtype for array in model.state_dict().values()} == {np.dtype(np.float64)}


def test_names_shapes_and_orientation_on_disk(unit_llama, attach, tmp_path):
    model = attach(unit_llama(), "some-name", target_modules=["down_proj"], layers_to_transform=[1])
    lora.save_adapter(model, tmp_path, "some-name")
    tensors = read_tensors(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.1.mlp.down_proj"
    assert {name: a.shape for name, a in tensors.items()} == {
        f"{prefix}.lora_A.weight": (3, 20),  # (r, in)
        f"{prefix}.lora_B.weight": (12, 3),  # (out, r)
    }
    assert read_metadata(tmp_path / "adapter_model.safetensors") == {
        "format": "pt",
        "base_fingerprint": fingerprint(model),
    }


def test_the_config_on_disk(unit_llama, attach, tmp_path):
    model = attach(unit_llama(), r=5, lora_alpha=2.5, target_modules=["v_proj", "q_proj"], use_rslora=True)
    lora.save_adapter(model, tmp_path, base="a/base")
    text = (tmp_path / "adapter_config.json").read_text()
    values = json.loads(text)
    assert list(values) == sorted(values)
    assert text.startswith('{\n  "')
    assert values == {
        "alpha_pattern": {},
        "base_model_name_or_path": "a/base",
        "bias": "none",
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": False,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": 2.5,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 5,
        "rank_pattern": {},
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": True,
    }


def test_the_base_is_given_by_name_alone(unit_llama, attach, tmp_path):
    with pytest.raises(TypeError, match="positional argument"):
        lora.save_adapter(attach(unit_llama()), tmp_path, "default", "a/base")
    assert not list(tmp_path.iterdir())


def test_the_first_of_two_matching_patterns_still_counts(unit_llama, attach, tmp_path):
    patterns = {"q_proj": 40, r".*\.1\..*": 1, ".*_proj": 16}
    model, other = attach(unit_llama(), alpha_pattern=patterns), unit_llama()
    lora.save_adapter(model, tmp_path)
    lora.load_adapter(other, tmp_path)
    assert [m.scaling for m in hosts(other).values()] == [m.scaling for m in hosts(model).values()]
    assert len({m.scaling["default"] for m in hosts(model).values()}) == 3


def test_one_of_two_adapters_is_saved_and_loaded_beside_another(two_adapters, unit_llama, attach, tmp_path, ids):
    model = two_adapters()
    lora.save_adapter(model, tmp_path / "a", "a")
    lora.save_adapter(model, tmp_path / "b", "b")
    other = unit_llama()
    lora.load_adapter(other, tmp_path / "b", "b")
    lora.load_adapter(other, tmp_path / "a", "a")
    assert lora.adapters(other) == ["a", "b"] or lora.adapters(other) == ["b", "a"]
    for choice in ("a", "b", {"a": 0.7, "b": -1.0}):
        lora.set_active(model, choice)
        lora.set_active(other, choice)
        expected = model(ids).data
        assert np.abs(other(ids).data - expected).max() < 1e-5 * np.abs(expected).max()


def test_an_adapter_that_is_not_there(two_adapters, unit_llama, tmp_path):
    with pytest.raises(lora.AdapterError, match="there is no adapter 'c'; the model has a, b"):
        lora.save_adapter(two_adapters(), tmp_path, "c")
    with pytest.raises(lora.AdapterError, match="no adapter 'default'; the model has none"):
        lora.save_adapter(unit_llama(), tmp_path)
    with pytest.raises(lora.AdapterError, match="expected dtype 'float32' or 'float16', got 'int8'"):
        lora.save_adapter(two_adapters(), tmp_path, "a", dtype="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", [1, 2], ids=["at the weights", "at the config"])
def test_a_failing_save_leaves_a_folder_that_opens(failing, unit_llama, attach, tmp_path, monkeypatch):
    old, new = attach(unit_llama(), seed=1), attach(unit_llama(), seed=2)
    lora.save_adapter(old, tmp_path)
    files, calls, replace = sorted(tmp_path.iterdir()), [], os.replace

    def fail_once(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError("the disk is full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OSError, match="the disk is full"):
        lora.save_adapter(new, tmp_path)
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == files
    back = unit_llama()
    lora.load_adapter(back, tmp_path)
    expected = adapter_state(old if failing == 1 else new, "default")
    assert all(adapter_state(back, "default")[n].tobytes() == a.tobytes() for n, a in expected.items())


def test_numbers_that_the_files_type_cannot_hold_are_not_written(unit_llama, attach, tmp_path):
    """100,000 overflows to infinity in float16, and such a file could not be loaded again."""
    model = attach(unit_llama())
    model.model.layers[1].self_attn.v_proj.lora_B["default"].data[0, 0] = 1e5
    with pytest.raises(
        lora.AdapterError, match=r"lora_B of model\.layers\.1\.self_attn\.v_proj .* not finite in float16"
    ):
        lora.save_adapter(model, tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    lora.save_adapter(model, tmp_path / "single")
