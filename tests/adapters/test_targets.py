"""The Linears that a config selects. A name that matches none is an error that lists the available names."""

import pytest

from minilora.adapters.targets import layer_of, select
from minilora.lora import AdapterError, LoraConfig

ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]


def paths(leaves, layers=range(12)):
    parts = {**dict.fromkeys(ATTENTION, "self_attn"), **dict.fromkeys(MLP, "mlp")}
    return {f"model.layers.{i}.{parts[leaf]}.{leaf}" for i in layers for leaf in leaves}


@pytest.fixture(scope="module")
def model(unit_llama):
    """A model with twelve layers, so that a wrong match for layer 1 would include layers 10 and 11."""
    return unit_llama(num_hidden_layers=12, tie_word_embeddings=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, paths(["q_proj", "v_proj"])),
        ({"target_modules": "all-linear"}, paths(ATTENTION + MLP)),
        ({"target_modules": ["lm_head"]}, {"lm_head"}),
        ({"target_modules": ["1.mlp.up_proj"]}, paths(["up_proj"], [1])),
        ({"target_modules": ["model.layers.11.mlp.up_proj"]}, paths(["up_proj"], [11])),
        ({"target_modules": r"model\.layers\.1\..*"}, paths(ATTENTION + MLP, [1])),
        ({"target_modules": r".*\.(q|k)_proj"}, paths(["q_proj", "k_proj"])),
        ({"target_modules": ["q_proj"], "layers_to_transform": 0}, paths(["q_proj"], [0])),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1, 11]}, paths(["q_proj"], [1, 11])),
        ({"target_modules": "all-linear", "layers_to_transform": [10]}, paths(ATTENTION + MLP, [10])),
        ({"target_modules": ["lm_head", "q_proj"], "layers_to_transform": [3]}, paths(["q_proj"], [3]) | {"lm_head"}),
        ({"target_modules": "all-linear", "exclude_modules": MLP}, paths(ATTENTION)),
        ({"target_modules": ["q_proj"], "exclude_modules": r".*\.1\d?\..*"}, paths(["q_proj"], [0, *range(2, 10)])),
        ({"target_modules": ["q_proj", "lm_head"], "exclude_modules": ["lm_head"]}, paths(["q_proj"])),
        ({"target_modules": ["q_proj"], "exclude_modules": "model"}, paths(["q_proj"])),  # not the entire path
    ],
)
def test_selected_modules(options, expected, model):
    chosen = select(model, LoraConfig(**options))
    assert set(chosen) == expected
    modules = dict(model.named_modules())
    assert all(modules[path] is linear for path, linear in chosen.items())


ALL = "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q_proj", "query"]}, f"target 'query' matches no linear module; .* named {ALL}"),
        (
            {"target_modules": ["proj"]},
            rf"target 'proj' matches no .* named {ALL} \(full path of one: model\.layers\.0\.self_attn\.q_proj\)$",
        ),
        ({"target_modules": ["embed_tokens"]}, f"target 'embed_tokens' matches no .* named {ALL}"),
        ({"target_modules": ["q_proj", "all-linear"]}, f"target 'all-linear' matches no .* named {ALL}"),  # not a name
        ({"target_modules": ["q_proj", "x" * 1_000]}, f"target 'x{{79}}… matches no .* named {ALL}"),
        ({"target_modules": "q_proj"}, f"target 'q_proj' matches no .* named {ALL}"),  # must match the entire path
        ({"target_modules": r"model\.layers\.1"}, f"matches no .* named {ALL}"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 12]}, "selects layer 12, but .* has layers 0 to 11"),
        ({"target_modules": ["q_proj"], "layers_to_transform": -1}, "selects layer -1, but .* has layers 0 to 11"),
        (
            {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
            "no modules are left to adapt after exclude_modules",
        ),
        (
            {"rank_pattern": {"up_proj": 2}, "target_modules": ["v_proj"]},
            r"key 'up_proj' of rank_pattern matches none of .* \(full path of one: .*\.0\.self_attn\.v_proj\)$",
        ),
        ({"alpha_pattern": {"q": 2}}, "key 'q' of alpha_pattern matches none of the adapted"),
    ],
)
def test_what_matches_nothing(options, message, model):
    with pytest.raises(AdapterError, match=message) as caught:
        select(model, LoraConfig(**options))
    assert "\n" not in str(caught.value)


def test_a_refused_target_changes_nothing(unit_llama, attach, snapshot):
    model = unit_llama()
    before = snapshot(model)
    with pytest.raises(AdapterError, match="matches no linear module"):
        attach(model, target_modules=["q_proj", "typo"])
    assert snapshot(model) == before


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("model.layers.12.mlp.up_proj", 12),
        ("lm_head", None),
        ("a.3.b.4", 3),
        ("a." + "9" * 9, 10**9 - 1),
        ("a." + "9" * 10, None),
        ("model.²", None),
        ("model." + "9" * 5_000, None),
    ],
)
def test_the_layer_of_a_path(path, layer):
    assert layer_of(path) == layer
