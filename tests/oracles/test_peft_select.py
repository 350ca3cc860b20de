"""The same target expressions adapt the same modules as in PEFT."""

import pytest

from minilora import lora
from minilora.adapters.targets import select

pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.oracle

EXPRESSIONS = {
    "names": {"target_modules": ["q_proj", "v_proj"]},
    "the defaults": {"target_modules": None},
    "a name with its parent": {"target_modules": ["self_attn.q_proj", "mlp.up_proj"]},
    "a whole path": {"target_modules": ["model.layers.1.mlp.up_proj"]},
    "part of a path": {"target_modules": ["1.mlp.up_proj", "layers.2.self_attn.o_proj"]},
    "all-linear": {"target_modules": "all-linear"},
    "the output head": {"target_modules": ["lm_head"]},
    "head and layers": {"target_modules": ["lm_head", "q_proj"], "layers_to_transform": [1]},
    "a whole path and layers": {
        "target_modules": ["model.layers.0.mlp.up_proj", "q_proj"],
        "layers_to_transform": [1],
    },
    "regex on a name": {"target_modules": r".*\.(q|k)_proj"},
    "regex on layers": {"target_modules": r"model\.layers\.[02]\..*_proj"},
    "regex of one module": {"target_modules": "lm_head"},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": 1},
    "layer 0": {"target_modules": ["q_proj"], "layers_to_transform": 0},
    "layers": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 10]},
    "no layers, which is all": {"target_modules": ["q_proj"], "layers_to_transform": []},
    "exclude names": {"target_modules": "all-linear", "exclude_modules": ["up_proj", "self_attn.v_proj"]},
    "exclude a whole path": {"target_modules": ["q_proj"], "exclude_modules": ["model.layers.0.self_attn.q_proj"]},
    "exclude by regex": {"target_modules": ["q_proj"], "exclude_modules": r".*layers\.1.*"},
    "exclude from a regex": {"target_modules": r".*_proj", "exclude_modules": r".*mlp.*"},
    "exclude with layers": {
        "target_modules": ["q_proj", "k_proj"],
        "exclude_modules": ["k_proj"],
        "layers_to_transform": [0, 1],
    },
}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request, unit_llama):
    """Eleven layers, so that layers 1 and 10 can be confused."""
    return unit_llama(num_hidden_layers=11, hidden_size=8, intermediate_size=8, tie_word_embeddings=request.param)


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_the_same_modules(expression, model, peft_adapted):
    theirs = peft_adapted(model, r=1, **expression).base_model.targeted_module_names
    stated = {name: value for name, value in expression.items() if value is not None}
    chosen = select(model, lora.LoraConfig(r=1, **stated))
    assert sorted(chosen) == sorted(theirs)
    assert chosen
