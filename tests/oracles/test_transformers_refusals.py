"""A config that requires an unsupported feature is rejected with the name of the feature."""

import pytest

from minilora.nn import Llama, LlamaConfig

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMAS = {
    "rope_type = 'llama3'": {"rope_parameters": LLAMA3_ROPE},
    "rope_type = 'linear'": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "rope_type = 'dynamic'": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    "attention_bias = True": {"attention_bias": True},
    "mlp_bias = True": {"mlp_bias": True},
    "hidden_act = 'gelu'": {"hidden_act": "gelu"},
    "attention_dropout = 0.1": {"attention_dropout": 0.1},
    "pretraining_tp = 2": {"pretraining_tp": 2},
}
OTHERS = {
    "sliding_window = 4096": transformers.MistralConfig,
    "model_type = 'qwen2'": transformers.Qwen2Config,
    "model_type = 'qwen3'": transformers.Qwen3Config,
    "model_type = 'gpt2'": transformers.GPT2Config,
    "model_type = 'gemma2'": transformers.Gemma2Config,
    "model_type = 'mixtral'": transformers.MixtralConfig,
    "model_type = 'phi3'": transformers.Phi3Config,
}


@pytest.mark.parametrize(("feature", "options"), LLAMAS.items(), ids=LLAMAS.keys())
def test_a_llama_with_more_to_it(feature, options, tmp_path):
    transformers.LlamaConfig(**options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"requires {feature}, which minilora does not implement"):
        Llama.from_pretrained(tmp_path)


@pytest.mark.parametrize(("feature", "config"), OTHERS.items(), ids=OTHERS.keys())
def test_another_model(feature, config, tmp_path):
    config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"requires {feature}, which minilora does not implement"):
        Llama.from_pretrained(tmp_path)


def test_a_quantized_llama(tmp_path):
    quantized = transformers.BitsAndBytesConfig(load_in_4bit=True)
    transformers.LlamaConfig(quantization_config=quantized.to_dict()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"requires quantization_config = .*load_in_4bit"):
        Llama.from_pretrained(tmp_path)


@pytest.mark.parametrize("scaling", [{"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}])
def test_rope_scaling_as_transformers_4_wrote_it(scaling):
    older = {**transformers.LlamaConfig().to_dict(), "rope_scaling": scaling, "rope_theta": 1e4}
    del older["rope_parameters"]
    with pytest.raises(ValueError, match="rope_type = 'linear'"):
        LlamaConfig.from_dict(older)


@pytest.mark.parametrize("name", ["sliding_window", "num_key_value_heads"])
def test_a_silent_mistral_config_means_what_transformers_takes_it_to_mean(name):
    """Mistral's defaults differ from Llama's: a window of 4096 and 8 key heads."""
    values = {**transformers.MistralConfig().to_dict(), "sliding_window": None}
    del values[name]
    if name == "sliding_window":
        with pytest.raises(ValueError, match="sliding_window = 4096"):
            LlamaConfig.from_dict(values)
    else:
        assert LlamaConfig.from_dict(values).num_key_value_heads == 8
