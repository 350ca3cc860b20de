"""Model folders in both directions: each library loads the folders that the other one saves."""

import json

import numpy as np
import pytest

from minilora.nn import Llama, LlamaConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

SHAPES = {
    "tied": {"num_key_value_heads": 2, "rope_theta": 500000.0, "rms_norm_eps": 1e-6},
    "untied, head_dim": {"num_key_value_heads": 1, "head_dim": 10, "rope_theta": 100.0, "tie_word_embeddings": False},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@shapes
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_from_here_opens_there(shape, dtype, tmp_path, unit_llama, draw_ids, their_logits, off_by):
    model = unit_llama(**shape)
    model.save_pretrained(tmp_path, dtype=dtype)
    theirs, notes = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(notes.values()), notes
    ids = draw_ids(model, time=40)
    if dtype == "float16":  # the file contains the rounded weights
        for p in model.parameters():
            p.data[...] = p.data.astype(np.float16)
    assert off_by(their_logits(theirs.eval(), ids), model(ids).data) < 2e-5


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_transformers_sees_the_type_on_disk(dtype, tmp_path, unit_llama):
    unit_llama().save_pretrained(tmp_path, dtype=dtype)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == getattr(torch, dtype)


@shapes
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_folder_from_there_opens_here(
    shape, dtype, tmp_path, unit_llama, in_transformers, draw_ids, their_logits, off_by
):
    original = unit_llama(**shape)
    in_transformers(original).to(getattr(torch, dtype)).save_pretrained(tmp_path)
    model = Llama.from_pretrained(tmp_path)
    # The rounded weights in float32. Converting the model in place would leave rounded rotary angles behind.
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert model.parameters()[0].dtype == np.float32
    for name, p in theirs.named_parameters():
        np.testing.assert_array_equal(model.state_dict()[name], p.detach().numpy(), err_msg=name)
    ids = draw_ids(model, time=40)
    assert off_by(model(ids).data, their_logits(theirs, ids)) < 2e-5
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == original.config.tie_word_embeddings


@shapes
def test_shards(shape, tmp_path, unit_llama, in_transformers, draw_ids):
    original = unit_llama(**shape)
    in_transformers(original).save_pretrained(tmp_path, max_shard_size="10KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    ids = draw_ids(original)
    np.testing.assert_array_equal(Llama.from_pretrained(tmp_path)(ids).data, original(ids).data)


@shapes
def test_the_config_there_and_back(shape, tmp_path, unit_llama, in_transformers):
    model = unit_llama(**shape)
    model.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert theirs.rope_parameters == {"rope_type": "default", "rope_theta": model.config.rope_theta}
    for name in ("rms_norm_eps", "head_dim", "num_key_value_heads", "tie_word_embeddings", "max_position_embeddings"):
        assert getattr(theirs, name) == getattr(model.config, name), name
    assert theirs.eos_token_id is None
    in_transformers(model).save_pretrained(tmp_path / "theirs")
    assert LlamaConfig.from_dict(json.loads((tmp_path / "theirs/config.json").read_text())) == model.config
    theirs.save_pretrained(tmp_path / "back")
    assert LlamaConfig.from_dict(json.loads((tmp_path / "back/config.json").read_text())) == model.config


def test_a_config_of_transformers_4_states_rope_theta_outside():
    """Version 4 wrote rope_theta next to a rope_scaling of null; version 5 writes rope_parameters."""
    newer = transformers.LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 777.0}).to_dict()
    del newer["rope_parameters"]
    older = {**newer, "rope_theta": 777.0, "rope_scaling": None}
    assert LlamaConfig.from_dict(older).rope_theta == 777.0


def test_a_silent_config_means_what_transformers_takes_it_to_mean():
    """The config contains only the values without a default; all others must equal transformers' defaults."""
    stated = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    stated["num_hidden_layers"] = 1
    ours, theirs = LlamaConfig.from_dict({"model_type": "llama", **stated}), transformers.LlamaConfig(**stated)
    for name in ("rms_norm_eps", "head_dim", "num_key_value_heads", "tie_word_embeddings", "max_position_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


def test_mistral_without_a_window_is_a_llama(tmp_path, draw_ids, their_logits, off_by):
    config = transformers.MistralConfig(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        sliding_window=None,
    )
    theirs = transformers.MistralForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    model = Llama.from_pretrained(tmp_path)
    ids = draw_ids(model, time=30)
    assert off_by(model(ids).data, their_logits(theirs, ids)) < 2e-5
