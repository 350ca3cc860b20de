"""Adapter files in both directions: an adapter saved by one library has the same effect in the other."""

import json
import re

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.nn import Llama

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.oracle

QV = ["q_proj", "v_proj"]
ADAPTERS = {
    "r = 1": {"r": 1, "lora_alpha": 2, "target_modules": QV},
    "r = 4": {"r": 4, "lora_alpha": 4, "target_modules": QV},
    "r = 8, alpha a fraction": {"r": 8, "lora_alpha": 3.5, "target_modules": QV},
    "r = 16": {"r": 16, "lora_alpha": 32, "target_modules": ["o_proj", "gate_proj", "down_proj"]},
    "rsLoRA": {"r": 8, "lora_alpha": 8, "target_modules": QV, "use_rslora": True},
    "all-linear": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "regular expression": {"r": 4, "lora_alpha": 8, "target_modules": r".*\.1\..*(up|k)_proj"},
    "full path": {"r": 4, "lora_alpha": 8, "target_modules": ["layers.1.mlp.up_proj", "k_proj"]},
    "some layers": {"r": 4, "lora_alpha": 8, "target_modules": QV, "layers_to_transform": [0, 2]},
    "one layer": {"r": 4, "lora_alpha": 8, "target_modules": QV, "layers_to_transform": 1},
    "exclude a list": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "exclude_modules": ["mlp.up_proj"]},
    "exclude a pattern": {"r": 4, "lora_alpha": 8, "target_modules": QV, "exclude_modules": r".*\.0\..*q_proj"},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "rank_pattern": {r"layers\.[01]\.mlp\..*": 7, "q_proj": 2, "up_proj": 3},
        "alpha_pattern": {r"1\.self_attn\.[qk]_proj": 5, "[a-z]+_proj": 11},
    },
    "patterns under rsLoRA": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": QV,
        "use_rslora": True,
        "rank_pattern": {"model.layers.0.self_attn.v_proj": 9},
        "alpha_pattern": {"^model.layers.2.*": 1},
    },
    "output head": {"r": 4, "lora_alpha": 8, "target_modules": ["lm_head", "q_proj"]},
}
options = pytest.mark.parametrize("options", ADAPTERS.values(), ids=ADAPTERS.keys())


@pytest.fixture(scope="module")
def make_base(unit_llama):
    return lambda: unit_llama(seed=2, num_hidden_layers=3, num_key_value_heads=2, tie_word_embeddings=False)


def acting(config):
    return lora.LoraConfig(**config, init_lora_weights=False)


@options
def test_an_adapter_from_here_acts_there(options, tmp_path, make_base, in_transformers, draw_ids, their_logits, off_by):
    model = make_base()
    ids, theirs = draw_ids(model), in_transformers(model)
    before = model(ids).data
    lora.inject(model, acting(options), rng=np.random.default_rng(0))
    lora.save_adapter(model, tmp_path)
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    after = model(ids).data
    assert off_by(after, their_logits(adapted, ids)) < 2e-5
    assert off_by(after, before) > 0.01  # the adapter has an effect


@options
def test_an_adapter_from_there_acts_here(options, tmp_path, make_base, peft_adapted, draw_ids, their_logits, off_by):
    model = make_base()
    ids, before = draw_ids(model), model(draw_ids(model)).data
    adapted = peft_adapted(model, **options)
    adapted.save_pretrained(tmp_path)
    lora.load_adapter(model, tmp_path, "theirs")
    after = model(ids).data
    assert off_by(after, their_logits(adapted, ids)) < 2e-5
    assert off_by(after, before) > 0.01


def test_the_first_of_two_matching_patterns_counts_there_too(
    tmp_path, make_base, in_transformers, draw_ids, their_logits, off_by
):
    """The order of the patterns is part of the adapter: sorting them, as PEFT does when saving, would change it."""
    model = make_base()
    ids, theirs = draw_ids(model), in_transformers(model)
    config = acting({"target_modules": QV, "alpha_pattern": {"q_proj": 40, r".*\.1\..*": 1, ".*_proj": 16}})
    lora.inject(model, config, rng=np.random.default_rng(0))
    lora.save_adapter(model, tmp_path)
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    assert off_by(model(ids).data, their_logits(adapted, ids)) < 2e-5


@options
def test_there_and_back(options, tmp_path, make_base, in_transformers):
    """An adapter that PEFT has loaded and saved is bit-for-bit unchanged."""
    first, second = make_base(), make_base()
    lora.inject(first, acting(options), rng=np.random.default_rng(0))
    lora.save_adapter(first, tmp_path / "ours")
    peft.PeftModel.from_pretrained(in_transformers(make_base()), tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    lora.load_adapter(second, tmp_path / "theirs")
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    for (_, a), (_, b) in zip(hosts(first).items(), hosts(second).items(), strict=True):
        assert a.scaling == b.scaling


def test_float16_on_disk(tmp_path, make_base, in_transformers, draw_ids, their_logits, off_by):
    model = make_base()
    theirs, ids = in_transformers(model), draw_ids(model)
    lora.inject(model, acting(ADAPTERS["r = 4"]), rng=np.random.default_rng(0))
    lora.save_adapter(model, tmp_path, dtype="float16")
    rounded = make_base()
    lora.load_adapter(rounded, tmp_path)
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    assert off_by(rounded(ids).data, their_logits(adapted, ids)) < 2e-5
    assert 1e-6 < off_by(rounded(ids).data, model(ids).data) < 5e-3


ALWAYS = {
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules",
    "fan_in_fan_out", "bias", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform",
    "modules_to_save", "init_lora_weights", "inference_mode",
}  # fmt: skip


LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@options
def test_the_config_file_says_everything_and_peft_reads_the_same(options, tmp_path, make_base):
    model = make_base()
    lora.inject(model, lora.LoraConfig(**options, lora_dropout=0.1), rng=np.random.default_rng(0))
    lora.save_adapter(model, tmp_path, base="some/base")
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written.keys() >= ALWAYS
    assert written["base_model_name_or_path"] == "some/base"
    theirs = peft.LoraConfig.from_pretrained(tmp_path)
    assert theirs.peft_type == "LORA"
    assert theirs.task_type == "CAUSAL_LM"
    stated = {"use_rslora": False, **options, "lora_dropout": 0.1, "init_lora_weights": True}
    if options["target_modules"] == "all-linear":  # the file lists the module names instead
        excluded = {name.rpartition(".")[2] for name in options.get("exclude_modules", [])}
        stated["target_modules"] = sorted(LINEARS - excluded)
    for name, value in stated.items():
        found = getattr(theirs, name)
        assert (sorted(found) if isinstance(found, set) else found) == (
            sorted(value) if isinstance(value, list) else value
        ), name


def test_the_names_in_the_file_are_pefts(tmp_path, make_base, peft_adapted):
    from safetensors.numpy import load_file

    model = make_base()
    peft_adapted(model, **ADAPTERS["patterns"]).save_pretrained(tmp_path / "theirs")
    lora.inject(model, acting(ADAPTERS["patterns"]), "some-name", rng=np.random.default_rng(0))
    lora.save_adapter(model, tmp_path / "ours", "some-name")
    ours, theirs = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert {name: a.shape for name, a in ours.items()} == {name: a.shape for name, a in theirs.items()}
    assert all(re.fullmatch(r"base_model\.model\.model\.layers\.\d\..*_proj\.lora_[AB]\.weight", name) for name in ours)


def test_auto_classes_find_the_recorded_base(tmp_path, make_base, draw_ids, their_logits, off_by):
    make_base().save_pretrained(tmp_path / "base")
    model = Llama.from_pretrained(tmp_path / "base")
    lora.inject(model, r=2, init_lora_weights=False)
    lora.save_adapter(model, tmp_path / "adapter")
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    ids = draw_ids(model)
    assert off_by(model(ids).data, their_logits(theirs, ids)) < 1e-5
