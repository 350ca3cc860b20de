"""Model folders: weights are read back exactly, and a broken folder raises a one-line error."""

import os
from pathlib import Path

import numpy as np
import pytest

from minilora import lora
from minilora.files import read_json, read_tensors, write_json, write_tensors
from minilora.nn import Llama, LlamaConfig, load_model


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_is_made_and_what_comes_back_can_be_trained(tied, tmp_path, unit_llama):
    model = unit_llama(tie_word_embeddings=tied, rope_theta=77.0, rms_norm_eps=1e-3)
    model.save_pretrained(tmp_path / "deep" / "folder")
    back = Llama.from_pretrained(str(tmp_path / "deep" / "folder"))
    assert back.config == model.config
    assert (back.lm_head.weight is back.model.embed_tokens.weight) == tied
    assert all(p.requires_grad for p in back.parameters())


def test_the_type_of_the_file_rounds_and_what_comes_back_is_float32(tmp_path, unit_llama):
    model = unit_llama()
    model.astype(np.float64)
    sizes = []
    for dtype in ("float32", "float16"):
        model.save_pretrained(tmp_path, dtype)
        sizes.append((tmp_path / "model.safetensors").stat().st_size)
        for name, array in Llama.from_pretrained(tmp_path).state_dict().items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, model.state_dict()[name].astype(dtype).astype(np.float32))
    assert sizes[0] - sizes[1] == pytest.approx(2 * sum(p.size for p in model.parameters()), rel=0.01)


def test_another_dtype_and_a_model_with_adapters_are_refused_before_anything_is_written(tmp_path, unit_llama):
    model = unit_llama()
    with pytest.raises(ValueError, match="expected dtype 'float32' or 'float16', got 'bfloat16'"):
        model.save_pretrained(tmp_path, dtype="bfloat16")
    lora.inject(model, lora.LoraConfig(), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"cannot store .*lora_A\.default and \d+ more; save the adapter separately"):
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


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1])


def of_another_shape(file):
    write_tensors(file, {**read_tensors(file), "model.embed_tokens.weight": np.ones((29, 8))})


@pytest.mark.parametrize(
    ("spoil", "name", "message"),
    [
        (
            Path.unlink,
            "config.json",
            r"is not a model folder: expected it to contain config\.json and model\.safetensors",
        ),
        (Path.unlink, "model.safetensors", r"model\.safetensors does not exist"),
        (cut_short, "model.safetensors", r"model\.safetensors is not a valid safetensors file"),
        (of_another_shape, "model.safetensors", r"folder: .* should have shape \(29, 12\), found \(29, 8\)"),
    ],
)
def test_a_broken_folder(spoil, name, message, tmp_path, unit_llama):
    folder = tmp_path / "folder"
    unit_llama().save_pretrained(folder)
    spoil(folder / name)
    with pytest.raises(ValueError, match=message) as caught:
        Llama.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_what_some_writers_add_is_left_aside(tmp_path, unit_llama, draw_ids):
    """The rotary frequencies as a buffer, and the tied weight under its second name."""
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


@pytest.mark.parametrize(("eos", "tokens"), [(None, []), (7, [7]), ([3, 5], [3, 5])])
def test_the_tokens_that_end_a_text_stay_with_the_model(eos, tokens, tmp_path, unit_llama):
    unit_llama(eos_token_id=eos, bos_token_id=1).save_pretrained(tmp_path)
    assert read_json(tmp_path / "config.json")["eos_token_id"] == eos
    config = Llama.from_pretrained(tmp_path).config
    assert (config.eos_token_id, config.bos_token_id) == (eos, 1)
    assert sorted(config.end_tokens) == tokens


def test_generation_config_says_when_a_text_ends(tmp_path, unit_llama):
    """As in transformers: without an entry, config.json decides, where Llama's default is 2."""
    unit_llama(eos_token_id=3).save_pretrained(tmp_path)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [4, 5], "temperature": 0.6})
    assert Llama.from_pretrained(tmp_path).config.end_tokens == {4, 5}
    write_json(tmp_path / "generation_config.json", {"temperature": 0.6})
    assert Llama.from_pretrained(tmp_path).config.end_tokens == {3}
    values = read_json(tmp_path / "config.json")
    del values["eos_token_id"]
    write_json(tmp_path / "config.json", values)
    assert Llama.from_pretrained(tmp_path).config.end_tokens == {2}


@pytest.mark.parametrize("eos", [-1, "</s>", [1, None], 1.5])
def test_what_is_no_token_id(eos):
    with pytest.raises(ValueError, match="expected eos_token_id to be a token id, a list of token ids or null, got "):
        LlamaConfig(eos_token_id=eos)


@pytest.fixture
def sharded(tmp_path, unit_llama):
    """A folder with two shards, the model in it, and the file names of the shards."""
    model = unit_llama()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    shards, index = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)], {}
    for i, shard in enumerate(shards):
        part = dict(list(model.state_dict().items())[i::2])
        write_tensors(tmp_path / shard, part)
        index.update(dict.fromkeys(part, shard))
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


@pytest.mark.parametrize("target", ["../secret.safetensors", "{folder}/secret.safetensors"])
def test_an_index_cannot_point_outside(target, sharded):
    folder, model, _ = sharded
    write_tensors(folder.parent / "secret.safetensors", model.state_dict())
    write_json(
        folder / "model.safetensors.index.json",
        {"weight_map": dict.fromkeys(model.state_dict(), target.format(folder=folder.parent))},
    )
    with pytest.raises(ValueError, match="refers to a file outside its folder"):
        Llama.from_pretrained(folder)


def test_what_is_no_model_folder_but_often_taken_for_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = load_model()
    lora.inject(model, r=1)
    lora.save_adapter(model, "mine")
    with pytest.raises(
        ValueError, match=r"mine contains an adapter; load its base model, then the adapter with lora\.load"
    ):
        load_model("mine")
    with pytest.raises(
        ValueError, match=r"there is no folder meta-llama/Llama-3\.2-1B; models from the Hugging Face Hub"
    ):
        load_model("meta-llama/Llama-3.2-1B")


def test_a_config_of_numpy_scalars_is_saved(tmp_path):
    config = LlamaConfig(hidden_size=np.int64(8), num_attention_heads=np.int32(2), rms_norm_eps=np.float64(1e-5))
    Llama(config, np.random.default_rng(0)).save_pretrained(tmp_path)
    assert Llama.from_pretrained(tmp_path).config == config
