"""A folder that does not fit is one line of error, and the model stays as it was."""

import json

import numpy as np
import pytest

from minilora import lora
from minilora.files import read_tensors, write_tensors

A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")


@pytest.fixture
def folder(unit_llama, attach, tmp_path):
    """A good adapter on q and v, r = 3."""
    lora.save_adapter(attach(unit_llama()), tmp_path)
    return tmp_path


@pytest.fixture(params=["a plain model", "an adapted model"])
def model(request, unit_llama, two_adapters):
    return unit_llama() if request.param == "a plain model" else two_adapters()


def refused(model, folder, snapshot, message):
    before = snapshot(model)
    with pytest.raises(lora.AdapterError, match=message) as caught:
        lora.load_adapter(model, folder, "new")
    assert "\n" not in str(caught.value)
    assert snapshot(model) == before


def test_the_folder_itself_is_good(folder, model):
    lora.load_adapter(model, folder, "new")
    assert lora.active(model) == {"new": 1.0}


SPOILED = {
    "missing": (lambda t: t.pop(A), r"adapter_model\.safetensors lacks .*1\.self_attn\.q_proj\.lora_A\.weight, which"),
    "several missing": (lambda t: [t.pop(A), t.pop(B)], r"lacks .*q_proj\.lora_A\.weight and 1 more, which"),
    "extra": (lambda t: t.update(surplus=t[A]), r"holds surplus, which its config does not ask for"),
    "an extra module": (
        lambda t: t.update({A.replace("q_proj", "k_proj"): t[A]}),
        r"holds .*k_proj\.lora_A\.weight, which its config does not ask for",
    ),
    "without the prefix": (
        lambda t: t.update({"x." + A.removeprefix("base_model.model."): t.pop(A)}),
        r"lacks .*q_proj\.lora_A\.weight",
    ),
    "transposed": (lambda t: t.update({A: t[A].T}), r"lora_A\.weight should have shape \(3, 12\) .* found \(12, 3\)"),
    "swapped": (lambda t: t.update({A: t[B], B: t[A]}), r"lora_A\.weight should have shape \(3, 12\)"),
    "another rank": (lambda t: t.update({A: t[A][:2]}), r"should have shape \(3, 12\) .* found \(2, 12\)"),
    "flat": (lambda t: t.update({A: t[A].ravel()}), r"should have shape \(3, 12\) .* found \(36,\)"),
    "NaN": (lambda t: t[B].__setitem__((0, 0), np.nan), r"q_proj\.lora_B\.weight holds numbers that are not finite"),
    "infinity": (lambda t: t[A].__setitem__((2, 3), -np.inf), r"lora_A\.weight holds numbers that are not finite"),
    "empty": (lambda t: t.clear(), r"lacks .* and 11 more"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED.keys())
def test_tensors(spoil, message, folder, model, snapshot):
    file = folder / "adapter_model.safetensors"
    tensors = read_tensors(file)
    spoil(tensors)
    write_tensors(file, tensors)
    refused(model, folder, snapshot, message)


@pytest.mark.parametrize("kept", [0, 7, 30, 0.5, -1])
def test_weights_cut_short(kept, folder, model, snapshot):
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    refused(model, folder, snapshot, r"adapter_model\.safetensors is not a whole safetensors file")


CONFIGS = {
    "no r": (lambda c: c.pop("r"), "adapter_config.json: the adapter's config lacks r; without it"),
    "no alpha": (lambda c: c.pop("lora_alpha"), "lacks lora_alpha; without it"),
    "neither": (lambda c: (c.pop("r"), c.pop("lora_alpha")), "lacks r, lora_alpha; without"),
    "no targets": (lambda c: c.pop("target_modules"), "lacks target_modules"),
    "another r": (lambda c: c.update(r=4), r"should have shape \(4, 12\) on this model, found \(3, 12\)"),
    "r as text": (lambda c: c.update(r="3"), "the rank r should be a whole number of at least 1, got '3'"),
    "alpha NaN": (lambda c: c.update(lora_alpha=float("nan")), "lora_alpha should be a finite number, got nan"),
    "more targets": (lambda c: c["target_modules"].append("k_proj"), r"lacks .*k_proj\.lora_A\.weight and 5 more"),
    "fewer targets": (lambda c: c.update(target_modules=["q_proj"]), r"holds .*v_proj\.lora_A\.weight and 5 more"),
    "fewer layers": (lambda c: c.update(layers_to_transform=[0, 1]), r"holds .*layers\.2.*\.lora_A\.weight and 3 more"),
    "unknown target": (lambda c: c.update(target_modules=["c_attn"]), "target 'c_attn' matches no linear module"),
    "targets a number": (lambda c: c.update(target_modules=3), "target_modules should be a list"),
    "patterns a list": (lambda c: c.update(rank_pattern=[3]), "rank_pattern should be a dict"),
    "a bad pattern": (lambda c: c.update(alpha_pattern={"(": 3}), r"'\(' is not a valid regular expression"),
    "another type": (lambda c: c.update(peft_type="IA3"), "expected an adapter of peft_type 'LORA', found 'IA3'"),
    "DoRA": (lambda c: c.update(use_dora=True), "uses use_dora = True, which minilora does not implement"),
}


@pytest.mark.parametrize(("spoil", "message"), CONFIGS.values(), ids=CONFIGS.keys())
def test_config(spoil, message, folder, model, snapshot):
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    spoil(config)
    file.write_text(json.dumps(config))
    refused(model, folder, snapshot, message)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_config_that_is_none(content, folder, model, snapshot):
    (folder / "adapter_config.json").write_text(content)
    refused(model, folder, snapshot, r"adapter_config\.json (is not valid JSON|should hold a JSON object)")


def test_missing_files(folder, model, snapshot, tmp_path):
    (folder / "adapter_model.safetensors").unlink()
    refused(model, folder, snapshot, r"adapter_model\.safetensors does not exist")
    (folder / "adapter_config.json").unlink()
    message = r"is no adapter folder: expected adapter_config\.json and adapter_model\.safetensors in it"
    refused(model, folder, snapshot, message)
    refused(model, tmp_path / "nowhere", snapshot, message)


@pytest.mark.parametrize("shape", [{"hidden_size": 8}, {"num_attention_heads": 2}, {"num_hidden_layers": 4}], ids=str)
def test_a_base_of_another_shape(shape, folder, unit_llama, snapshot):
    refused(unit_llama(**shape), folder, snapshot, r"(should have shape .* on this model, found|lacks .*layers\.3)")


def test_a_frozen_copy_of_an_adapted_head_must_be_this_models(unit_llama, attach, tmp_path, snapshot, ids):
    """PEFT writes one down beside the adapter of an output head."""
    model, same, other = (unit_llama(seed, tie_word_embeddings=False) for seed in (0, 0, 1))
    attach(model, target_modules=["lm_head"])
    lora.save_adapter(model, tmp_path)
    tensors = read_tensors(tmp_path / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.base_layer.weight"] = model.lm_head.weight.data
    write_tensors(tmp_path / "adapter_model.safetensors", tensors)
    lora.load_adapter(same, tmp_path)
    np.testing.assert_array_equal(same(ids).data, model(ids).data)
    refused(other, tmp_path, snapshot, r"is for another base: its copy of lm_head\.weight differs from this model's")


def test_a_name_that_is_taken_or_cannot_be_one(folder, two_adapters, snapshot):
    model = two_adapters()
    before = snapshot(model)
    for name, message in [("a", "already has an adapter 'a'"), ("x.y", "an adapter's name is made of")]:
        with pytest.raises(lora.AdapterError, match=message):
            lora.load_adapter(model, folder, name)
    assert snapshot(model) == before
