"""Model folders: the same bits come back, and a broken folder is one clear error."""

import json
import os

import numpy as np
import pytest

from minilora import lora
from minilora.files import write_json, write_tensors
from minilora.nn import Llama


@pytest.mark.parametrize("tied", [True, False])
def test_float32_comes_back_bit_for_bit(tied, tmp_path, unit_llama):
    model = unit_llama(tie_word_embeddings=tied, rope_theta=77.0, rms_norm_eps=1e-3)
    model.save_pretrained(tmp_path / "deep" / "folder")
    back = Llama.from_pretrained(str(tmp_path / "deep" / "folder"))
    assert back.config == model.config
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, array in model.state_dict().items():
        assert back.state_dict()[name].tobytes() == array.tobytes(), name
    assert (back.lm_head.weight is back.model.embed_tokens.weight) == tied
    assert all(p.requires_grad for p in back.parameters())


def test_float16_comes_back_rounded(tmp_path, unit_llama, draw_ids):
    model = unit_llama()
    model.save_pretrained(tmp_path, dtype="float16")
    back = Llama.from_pretrained(tmp_path)
    for name, array in model.state_dict().items():
        assert back.state_dict()[name].dtype == np.float32
        np.testing.assert_array_equal(back.state_dict()[name], array.astype(np.float16).astype(np.float32))
    ids, expected = draw_ids(model), model(draw_ids(model)).data
    assert 0 < np.abs(back(ids).data - expected).max() < 5e-3 * np.abs(expected).max()
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * sum(p.size for p in model.parameters()) + 4000


def test_a_float64_model_is_saved_as_float32(tmp_path, unit_llama):
    model = unit_llama()
    model.astype(np.float64)
    model.save_pretrained(tmp_path)
    back = Llama.from_pretrained(tmp_path).state_dict()
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(back[name], array)


def test_another_dtype_is_refused_before_anything_is_written(tmp_path, unit_llama):
    with pytest.raises(ValueError, match="expected dtype 'float32' or 'float16', got 'bfloat16'"):
        unit_llama().save_pretrained(tmp_path, dtype="bfloat16")
    assert not list(tmp_path.iterdir())


def test_a_model_with_adapters_is_refused_in_words(tmp_path, unit_llama):
    model = unit_llama()
    lora.inject(model, lora.LoraConfig(), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"no place for .*lora_A\.default and \d+ more; save the adapter on its own"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", [1, 2], ids=["at the weights", "at the config"])
def test_a_failing_save_leaves_a_folder_that_opens(failing, tmp_path, unit_llama, monkeypatch):
    old, new = unit_llama(seed=1), unit_llama(seed=2)
    old.save_pretrained(tmp_path)
    files, calls, replace = sorted(tmp_path.iterdir()), [], os.replace

    def fail_once(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError("the disk is full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OSError, match="the disk is full"):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == files  # and no temporary file
    found = Llama.from_pretrained(tmp_path).state_dict()
    expected = (old if failing == 1 else new).state_dict()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 0.5, -1])
def test_weights_cut_short(kept, tmp_path, unit_llama):
    unit_llama().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file") as caught:
        Llama.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("config.json", r"is no model folder: expected config\.json and model\.safetensors in it"),
        ("model.safetensors", r"model\.safetensors does not exist"),
    ],
)
def test_a_missing_file(lost, message, tmp_path, unit_llama):
    unit_llama().save_pretrained(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(ValueError, match=message):
        Llama.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_a_config_that_is_no_config(content, tmp_path, unit_llama):
    unit_llama().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json (is not valid JSON|should hold a JSON object)"):
        Llama.from_pretrained(tmp_path)


def test_weights_of_another_shape_name_the_folder(tmp_path, unit_llama):
    unit_llama().save_pretrained(tmp_path)
    other = unit_llama(hidden_size=8).state_dict()
    write_tensors(tmp_path / "model.safetensors", other)
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: .* should have shape \(29, 12\), found \(29, 8\)"):
        Llama.from_pretrained(tmp_path)


def test_what_some_writers_add_is_left_aside(tmp_path, unit_llama, draw_ids):
    """The rotary frequencies as a buffer, and the tied table under its second name."""
    model = unit_llama()
    model.save_pretrained(tmp_path)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}
    extra["lm_head.weight"] = model.lm_head.weight.data
    write_tensors(tmp_path / "model.safetensors", {**model.state_dict(), **extra})
    ids = draw_ids(model)
    np.testing.assert_array_equal(Llama.from_pretrained(tmp_path)(ids).data, model(ids).data)
    write_tensors(tmp_path / "model.safetensors", {**model.state_dict(), "q_proj.bias": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"unknown q_proj\.bias"):
        Llama.from_pretrained(tmp_path)


@pytest.fixture
def sharded(tmp_path, unit_llama):
    """A folder of two shards, and the model in it."""
    model = unit_llama()
    state = model.state_dict()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    halves = list(state)[:5], list(state)[5:]
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for shard, names in zip(shards, halves, strict=True):
        write_tensors(tmp_path / shard, {name: state[name] for name in names})
    index = {name: shard for shard, names in zip(shards, halves, strict=True) for name in names}
    write_json(tmp_path / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    return tmp_path, model, shards


def test_shards(sharded):
    folder, model, shards = sharded
    back = Llama.from_pretrained(folder).state_dict()
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(back[name], array)
    (folder / shards[1]).unlink()
    with pytest.raises(ValueError, match=f"{shards[1]} does not exist"):
        Llama.from_pretrained(folder)


@pytest.mark.parametrize("target", ["../secret.safetensors", "{folder}/secret.safetensors", "sub/a.safetensors"])
def test_an_index_cannot_point_outside(target, sharded):
    folder, model, _ = sharded
    outside = folder.parent / "secret.safetensors"
    write_tensors(outside, model.state_dict())
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["model.norm.weight"] = target.format(folder=folder.parent)
    file.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="points outside its folder"):
        Llama.from_pretrained(folder)


def test_an_index_that_lists_too_little(sharded):
    folder, _, shards = sharded
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"model.norm.weight": shards[1]}})
    with pytest.raises(ValueError, match="do not fit this model: missing"):
        Llama.from_pretrained(folder)
