"""Every option of PEFT's LoraConfig, alone and in pairs: an adapter that leaves the base unchanged opens.

PEFT makes an adapter with the option and saves it. minilora must load it and compute the same logits, or refuse it with
the reason. An option is refused only if it changes the computation; the message then says what to do.
"""

import re
from dataclasses import fields
from itertools import combinations

import numpy as np
import pytest

from minilora import lora

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
config = pytest.importorskip("peft.tuners.lora.config")
pytestmark = pytest.mark.oracle

OPENS = ""
MERGE = "merge the adapter into its base with PEFT"
RESAVE = "changes the weights of the base; save the adapter again as plain LoRA.*path_initial_model"
KEEP = "which minilora does not implement; use this adapter with PEFT"
OPTIONS = {  # name: (settings, "" if it opens, else what the refusal says)
    "plain": ({}, OPENS),
    "task_type": ({"task_type": None}, OPENS),
    "names that match nothing": ({"target_modules": ["q_proj", "v_proj", "nothing"]}, OPENS),
    "a regular expression": ({"target_modules": r".*\.(q|v)_proj"}, OPENS),
    "all-linear": ({"target_modules": "all-linear"}, OPENS),
    "an adapted head": ({"target_modules": ["q_proj", "lm_head"]}, OPENS),
    "an adapted embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, f"adapts an embedding.*{MERGE}"),
    "exclude_modules": ({"exclude_modules": ["v_proj"]}, OPENS),
    "exclude_modules that matches nothing": ({"exclude_modules": ["nothing"]}, OPENS),
    "r": ({"r": 3}, OPENS),
    "lora_alpha": ({"lora_alpha": 3.5}, OPENS),
    "lora_dropout": ({"lora_dropout": 0.5}, OPENS),
    "fan_in_fan_out": ({"fan_in_fan_out": True}, OPENS),
    "bias all": ({"bias": "all"}, OPENS),
    "bias lora_only": ({"bias": "lora_only"}, OPENS),
    "use_rslora": ({"use_rslora": True}, OPENS),
    "use_dora": ({"use_dora": True}, OPENS),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, OPENS),
    "modules_to_save, norms": ({"modules_to_save": ["norm"]}, OPENS),
    "modules_to_save, a projection": ({"modules_to_save": ["down_proj"]}, OPENS),
    "modules_to_save that matches nothing": ({"modules_to_save": ["nothing"]}, OPENS),
    "gaussian": ({"init_lora_weights": "gaussian"}, OPENS),
    "orthogonal": ({"init_lora_weights": "orthogonal"}, OPENS),
    "mica": ({"init_lora_weights": "mica"}, OPENS),
    "eva": ({"init_lora_weights": "eva", "eva_config": peft.EvaConfig()}, OPENS),
    "pissa": ({"init_lora_weights": "pissa"}, RESAVE),
    "olora": ({"init_lora_weights": "olora"}, RESAVE),
    "lora_ga": ({"init_lora_weights": "lora_ga", "lora_ga_config": config.LoraGAConfig()}, RESAVE),
    "layers_to_transform": ({"layers_to_transform": [0, 9]}, OPENS),
    "layers_pattern": ({"layers_to_transform": [0], "layers_pattern": "layers"}, OPENS),
    "two layers_pattern": ({"layers_to_transform": 1, "layers_pattern": ["h", "layers"]}, OPENS),
    "rank_pattern": ({"rank_pattern": {"q_proj": 1, "nothing": 3}}, OPENS),
    "alpha_pattern": ({"alpha_pattern": {"layers.0.self_attn.q_proj": 1, "nothing": 3}}, OPENS),
    "megatron_core": ({"megatron_core": "megatron"}, OPENS),
    "loftq_config": ({"loftq_config": {"loftq_bits": 4}}, OPENS),
    "corda_config": ({"corda_config": config.CordaConfig()}, OPENS),
    "velora_config": ({"velora_config": config.VeloraConfig(num_groups=2)}, OPENS),
    "monteclora_config": ({"monteclora_config": config.MontecloraConfig(buffer_size=2)}, OPENS),
    "use_qalora": ({"use_qalora": True, "qalora_group_size": 4}, OPENS),
    "target_parameters": ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, OPENS),
    "more target_parameters": ({"target_parameters": ["k_proj.weight"]}, OPENS),
    "ensure_weight_tying": ({"ensure_weight_tying": True}, OPENS),
    "revision": ({"revision": "main"}, OPENS),
    "runtime_config": ({"runtime_config": peft.LoraRuntimeConfig(ephemeral_gpu_offload=True)}, OPENS),
    "trainable_token_indices": ({"trainable_token_indices": [1, 3]}, f"trainable_token_indices = .*{MERGE}"),
    "alora_invocation_tokens": ({"alora_invocation_tokens": [1, 2]}, f"alora_invocation_tokens = .*{KEEP}"),
    "layer_replication": ({"layer_replication": [[0, 2], [1, 2]]}, f"layer_replication = .*{KEEP}"),
    "lora_bias": ({"lora_bias": True}, f"lora_bias = .*{KEEP}"),
    "kasa_config": ({"kasa_config": config.KasaConfig()}, f"kasa_config = .*{MERGE}"),
    "use_bdlora": (
        {"use_bdlora": config.BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"], nblocks=2)},
        f"use_bdlora = .*{MERGE}",
    ),
}
PARAMETERS = f"target_parameters = .*{MERGE}"  # PEFT does not apply patterns and layers to them
TOGETHER = {
    ("an adapted head", "ensure_weight_tying"): f"adapts an embedding.*{MERGE}",
    **{
        (option, parameters): PARAMETERS
        for parameters in ("target_parameters", "more target_parameters")
        for option in (
            "exclude_modules",
            "exclude_modules that matches nothing",
            "a regular expression",
            "layers_to_transform",
            "layers_pattern",
            "two layers_pattern",
            "rank_pattern",
            "alpha_pattern",
        )
    },
}
NOT_TRIED = {"arrow_config", "megatron_config"}  # require other adapters or other packages
EVERY_FILE = {"peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "inference_mode"}


def adapter(folder, model, in_transformers, **options):
    """Save an adapter with A and B of order 1; return PEFT's logits for `IDS`."""
    torch.manual_seed(0)
    made = peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options})
    theirs = peft.get_peft_model(in_transformers(model), made).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                p.add_(torch.randn(p.shape), alpha=0.3)
        logits = theirs(input_ids=torch.tensor(IDS)).logits.numpy()
    theirs.save_pretrained(folder)
    return logits


IDS = np.random.default_rng(1).integers(20, size=(2, 7))
SHAPE = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request, unit_llama):
    return unit_llama(**SHAPE, tie_word_embeddings=request.param)


def opens(model, folder, logits, refusal):
    """Load the adapter and check the logits. Returns False if it is rejected; the message must then match `refusal`."""
    try:
        lora.load_adapter(model, folder)
    except lora.AdapterError as error:
        if not (refusal and re.search(refusal, str(error)) and str(error).isprintable()):
            raise
        return False
    assert np.abs(model(IDS).data - logits).max() < 2e-5 * np.abs(logits).max()
    return True


def test_the_table_has_every_option():
    tried = {name for settings, _ in OPTIONS.values() for name in settings} | {"init_lora_weights"}
    assert {field.name for field in fields(peft.LoraConfig)} == tried | NOT_TRIED | EVERY_FILE


@pytest.mark.parametrize(("settings", "refusal"), OPTIONS.values(), ids=OPTIONS.keys())
def test_alone(settings, refusal, model, tmp_path, in_transformers):
    logits = adapter(tmp_path, model, in_transformers, **settings)
    assert opens(model, tmp_path, logits, refusal) == (refusal == OPENS)


PAIRS = [(a, b) for a, b in combinations(OPTIONS, 2) if not OPTIONS[a][0].keys() & OPTIONS[b][0].keys()]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{a} and {b}" for a, b in PAIRS])
def test_in_pairs(first, second, unit_llama, tmp_path, in_transformers):
    model = unit_llama(**SHAPE)
    try:
        logits = adapter(tmp_path, model, in_transformers, **OPTIONS[first][0], **OPTIONS[second][0])
    except Exception as error:
        pytest.skip(f"PEFT refuses this combination: {error}")
    refusals = [OPTIONS[first][1], OPTIONS[second][1], TOGETHER.get((first, second), "")]
    opens(model, tmp_path, logits, "|".join(filter(None, refusals)))  # or it opens: PEFT ignores one of the options


@pytest.mark.parametrize("saved", [["lm_head"], ["embed_tokens"], None], ids=str)
def test_saved_embedding_layers(saved, model, tmp_path, in_transformers):
    """PEFT saves them under up to three names each."""
    made = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=saved, init_lora_weights=False)
    theirs = peft.get_peft_model(in_transformers(model), made).eval()
    theirs.save_pretrained(tmp_path, save_embedding_layers=True)
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor(IDS)).logits.numpy()
    assert opens(model, tmp_path, logits, OPENS)
