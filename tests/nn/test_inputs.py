"""Invalid ids and configs are rejected with a message."""

import dataclasses

import numpy as np
import pytest

from minilora.nn import LlamaConfig


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3], r"integer ids of shape \(batch, time\), got int64 of shape \(3,\)"),
        (np.zeros((1, 2, 3), dtype=int), r"got int64 of shape \(1, 2, 3\)"),
        (np.zeros((1, 3)), r"got float64 of shape \(1, 3\)"),
        (np.ones((1, 3), dtype=bool), r"got bool of shape \(1, 3\)"),
        (np.array([[0, 29]]), "expected ids from 0 to 28, got ids from 0 to 29"),
    ],
)
def test_ids(ids, message, unit_llama):
    with pytest.raises(ValueError, match=message):
        unit_llama()(ids)


def test_any_integer_type_and_lists_will_do(unit_llama, draw_ids):
    model = unit_llama()
    ids = draw_ids(model)
    expected = model(ids).data
    for others in (ids.astype(np.uint8), ids.astype(np.int32), ids.tolist()):
        np.testing.assert_array_equal(model(others).data, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "expected hidden_size to be a positive integer, got 0"),
        ({"hidden_size": 192.0}, r"expected hidden_size to be a positive integer, got 192\.0"),
        ({"vocab_size": "256"}, "expected vocab_size to be a positive integer, got '256'"),
        ({"num_attention_heads": True}, "expected num_attention_heads to be a positive integer, got True"),
        ({"head_dim": -4}, "expected head_dim to be a positive integer, got -4"),
        ({"rope_theta": None}, "expected rope_theta to be a positive number, got None"),
        ({"rms_norm_eps": float("nan")}, "expected rms_norm_eps to be a positive number, got nan"),
        ({"rms_norm_eps": float("inf")}, "expected rms_norm_eps to be a positive number, got inf"),
        ({"num_key_value_heads": 4}, r"num_attention_heads \(6\) should be a multiple of num_key_value_heads \(4\)"),
        (
            {"hidden_size": 100},
            r"hidden_size \(100\) should be a multiple of num_attention_heads \(6\) unless head_dim",
        ),
        ({"hidden_size": 18}, "head_dim should be even, .* got 3"),
    ],
)
def test_configs(options, message):
    with pytest.raises(ValueError, match=message):
        LlamaConfig(**options)


def test_what_a_config_fills_in():
    config = LlamaConfig()
    assert (config.num_key_value_heads, config.head_dim) == (6, 32)
    assert LlamaConfig(num_key_value_heads=2, head_dim=10).head_dim == 10
    assert LlamaConfig(hidden_size=100, head_dim=10).head_dim == 10
    assert LlamaConfig(hidden_size=np.int64(96)).head_dim == 16
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 3


STATED = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


def test_a_config_file_that_lacks_a_size():
    for name in STATED:
        with pytest.raises(ValueError, match=f"lacks {name}$"):
            LlamaConfig.from_dict({key: value for key, value in STATED.items() if key != name})


def test_a_silent_config_file_means_hugging_faces_defaults():
    config = LlamaConfig.from_dict(STATED)
    assert (config.rms_norm_eps, config.rope_theta, config.max_position_embeddings) == (1e-6, 10000, 2048)
    assert (config.num_key_value_heads, config.head_dim, config.tie_word_embeddings) == (4, 8, False)
    mistral = {**STATED, "num_attention_heads": 16, "model_type": "mistral"}
    assert LlamaConfig.from_dict({**mistral, "sliding_window": None}).num_key_value_heads == 8
    with pytest.raises(ValueError, match="requires sliding_window = 4096"):
        LlamaConfig.from_dict(mistral)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "qwen2"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("quantization_config", {"bits": 4}),
        ("layer_types", ["full_attention"]),
        ("partial_rotary_factor", 0.5),
    ],
)
def test_a_config_file_that_asks_for_more(name, value):
    with pytest.raises(ValueError, match=rf"requires {name} = .*, which minilora does not implement; supported: "):
        LlamaConfig.from_dict({**STATED, name: value})


@pytest.mark.parametrize(
    ("rope", "theta"),
    [
        ({"rope_theta": 123.0, "rope_scaling": None}, 123.0),
        ({"rope_theta": 123.0, "rope_scaling": {"type": "default"}}, 123.0),
        ({"rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 123.0}}, 123.0),
    ],
)
def test_the_ways_of_stating_rope_theta(rope, theta):
    assert LlamaConfig.from_dict({**STATED, **rope}).rope_theta == theta


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
def test_scaled_rotary_positions(place):
    for kind in ("type", "rope_type"):
        with pytest.raises(ValueError, match="requires rope_type = 'llama3'"):
            LlamaConfig.from_dict({**STATED, place: {kind: "llama3", "factor": 8}})


def test_a_config_survives_its_own_file_which_older_and_newer_readers_understand():
    """transformers 4 reads rope_theta, version 5 rope_parameters; each silently uses a default if it is missing."""
    config = LlamaConfig(num_key_value_heads=3, head_dim=10, rope_theta=7.0, rms_norm_eps=1e-3)
    values = config.to_dict()
    assert LlamaConfig.from_dict(values) == config
    assert values["rope_theta"] == 7.0
    assert values["rope_parameters"] == {"rope_type": "default", "rope_theta": 7.0}
