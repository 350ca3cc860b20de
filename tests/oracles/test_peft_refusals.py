"""PEFT adapters that minilora does not support are rejected with the reason."""

import json

import numpy as np
import pytest

from minilora import lora
from minilora.lora.facts import loaders

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.oracle

LORAS = {
    "lora_bias": {"lora_bias": True},
    "init_lora_weights .* 'pissa'": {"init_lora_weights": "pissa"},
    "init_lora_weights .* 'olora'": {"init_lora_weights": "olora"},
    "trainable_token_indices": {"trainable_token_indices": [0, 1]},
    "adapts an embedding": {"target_modules": ".*(q_proj|embed_tokens)"},
    "layer_replication": {"layer_replication": [[0, 2], [1, 2]]},
}
OTHERS = {
    "IA3": lambda: peft.IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LOHA": lambda: peft.LoHaConfig(target_modules=["q_proj"]),
    "ADALORA": lambda: peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10),
    "VERA": lambda: peft.VeraConfig(target_modules=["q_proj"]),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
}


@pytest.fixture
def model(unit_llama):
    return unit_llama(tie_word_embeddings=False)


def refused(model, folder, reason):
    """Check that loading raises a one-line error with the reason, and leaves the model unchanged."""
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(lora.AdapterError, match=reason) as caught:
        lora.load_adapter(model, folder)
    assert "\n" not in str(caught.value)
    assert before.keys() == model.state_dict().keys()
    assert all(np.array_equal(array, model.state_dict()[name]) for name, array in before.items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("reason", "options"), LORAS.items(), ids=LORAS.keys())
def test_a_lora_with_more_to_it(reason, options, model, tmp_path, peft_adapted):
    options = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": True, **options}
    peft_adapted(model, **options).save_pretrained(tmp_path)
    refused(model, tmp_path, reason)


@pytest.mark.parametrize(("kind", "config"), OTHERS.items(), ids=OTHERS.keys())
def test_another_method(kind, config, model, tmp_path, in_transformers):
    peft.get_peft_model(in_transformers(model), config()).save_pretrained(tmp_path)
    refused(model, tmp_path, f"expected .* peft_type 'LORA', found '{kind}'")


def test_a_base_of_another_width(unit_llama, model, tmp_path, peft_adapted):
    peft_adapted(unit_llama(hidden_size=32), target_modules=["q_proj"], r=2).save_pretrained(tmp_path)
    refused(model, tmp_path, r"q_proj\.lora_[AB]\.weight should have shape \(\d+, \d+\), found")


def test_another_width_is_attributed_to_the_base(unit_llama, model, tmp_path, peft_adapted):
    peft_adapted(unit_llama(hidden_size=32), target_modules=["q_proj"], r=2).save_pretrained(tmp_path)
    refused(model, tmp_path, "the adapter was made for a base model with different dimensions")


def test_a_base_with_another_head(unit_llama, model, tmp_path, peft_adapted):
    """PEFT saves a copy of the frozen weight of an adapted output head, which distinguishes the bases."""
    other = unit_llama(seed=99, tie_word_embeddings=False)
    peft_adapted(other, target_modules=["lm_head"], r=2).save_pretrained(tmp_path)
    refused(model, tmp_path, r"for a different base model, or .*: its copy of lm_head\.weight differs")


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "down_proj", "norm"])
def test_a_trained_module_to_save(name, model, tmp_path, peft_adapted):
    """As long as it is not trained, its copy equals the base's weight, and the adapter opens."""
    theirs = peft_adapted(model, r=2, target_modules=["q_proj"], modules_to_save=[name])
    theirs.save_pretrained(tmp_path / "untrained")
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    theirs.save_pretrained(tmp_path / "trained")
    refused(model, tmp_path / "trained", rf"replaces a weight .*{name}\.weight differs .* merge the adapter into its")
    lora.load_adapter(model, tmp_path / "untrained")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_copies_are_compared_in_the_dtype_of_the_file(dtype, model, tmp_path, peft_adapted):
    theirs = peft_adapted(model, r=2, target_modules=["q_proj", "lm_head"]).to(dtype)
    theirs.save_pretrained(tmp_path)
    lora.load_adapter(model, tmp_path)
    if dtype != torch.bfloat16:  # the model may also be the less precise one
        model.astype(np.float16)
        lora.load_adapter(model, tmp_path, "again")


@pytest.mark.parametrize("name", ["r", "lora_alpha"])
def test_what_peft_would_guess(name, model, tmp_path, peft_adapted):
    """PEFT assumes 8 for a missing r or lora_alpha, and the adapter silently has a wrong effect."""
    peft_adapted(model, target_modules=["q_proj"], r=4, lora_alpha=16).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    del values[name]
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    assert getattr(peft.LoraConfig.from_pretrained(tmp_path), name) == 8
    refused(model, tmp_path, f"is missing {name}")


def test_layers_beside_all_linear(model, tmp_path):
    """The only option that minilora accepts and PEFT does not, as `minilora info` reports."""
    options = lora.LoraConfig(target_modules="all-linear", layers_to_transform=[0])
    (verdict, *_) = loaders(options, [])
    assert not verdict.compatible
    with pytest.raises(ValueError, match="`layers_to_transform` cannot be used when `target_modules` is a str"):
        peft.LoraConfig(target_modules="all-linear", layers_to_transform=[0])
    lora.inject(model, options, rng=np.random.default_rng(0))
    lora.save_adapter(model, tmp_path)  # the file lists the module names, which PEFT accepts
    assert loaders(lora.read_adapter(tmp_path)[0], [])[0].compatible
    assert peft.LoraConfig.from_pretrained(tmp_path).layers_to_transform == [0]
