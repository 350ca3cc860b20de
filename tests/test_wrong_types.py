"""Public functions called with values of the wrong type: one line that says what was expected, and nothing changes."""

from pathlib import Path

import numpy as np
import pytest

import minilora as ml
from minilora import data, generation, laws, lora, runs, training
from minilora.nn import Llama, LlamaConfig, Module

WRONG = {
    "None": None,
    "True": True,
    "an int": 3,
    "a float": 0.5,
    "nan": float("nan"),
    "a str": "no such thing",
    "bytes": b"abc",
    "a list": [object()],
    "a dict": {"x": object()},
    "an object": object(),
    "an array": np.zeros((2, 2)),
    "a type": int,
    "a function": len,
}
TEXT = np.arange(200) % 256
ANY = set(WRONG)
NUMBERS = {"True", "an int", "a float"}
FUNCTIONS = {  # name: (function, valid arguments, {argument: names of the values that are valid as well})
    "load_model": (ml.load_model, {"folder": "base"}, {}),
    "load_ids": (ml.load_ids, {"names": "pastiche:verse:500"}, {"ascii": ANY, "download": ANY, "encoding": {"None"}}),
    "load_corpus": (data.load_corpus, {"name": "pastiche:verse:500"}, {}),
    "train": (
        ml.train,
        {"model": None, "train_ids": TEXT, "val_ids": TEXT, "config": training.TrainingConfig(iters=1, context=8)},
        {"config": {"None"}},
    ),
    "evaluate": (
        training.evaluate,
        {"model": None, "ids": TEXT, "context": 8, "windows": 2},
        {"context": {"True", "an int"}, "windows": {"True", "an int"}},
    ),
    "write": (
        ml.write,
        {"model": None, "prompt": "The", "tokens": 2, "sampler": None, "seed": 0, "adapters": None},
        {
            "prompt": {"a str"},
            "tokens": {"True", "an int"},
            "seed": {"True", "an int"},
            "sampler": {"None"},
            "adapters": {"None"},
        },
    ),
    "generate": (
        generation.generate,
        {"model": None, "prompts": [TEXT[:3]], "tokens": 2, "sampler": None, "seed": 0, "adapters": None},
        {"tokens": {"True", "an int"}, "seed": {"True", "an int"}, "sampler": {"None"}, "adapters": {"None"}},
    ),
    "compare": (
        ml.compare,
        {"prompt": "The", "voices": ["base"], "model": None},
        {"prompt": {"a str"}, "model": {"None"}},
    ),
    "Sampler": (
        generation.Sampler,
        {"temperature": 0.5, "top_k": 3, "top_p": 0.5},
        {"temperature": NUMBERS, "top_k": {"None", "True", "an int"}, "top_p": {"None", "True", "a float"}},
    ),
    "get_peft_model": (ml.get_peft_model, {"model": None, "config": lora.LoraConfig()}, {}),
    "inject": (
        lora.inject,
        {"model": None, "config": lora.LoraConfig(), "adapter": "a"},
        {"config": {"None"}, "adapter": set()},
    ),
    "load_adapter": (lora.load_adapter, {"model": None, "folder": None, "adapter": "a"}, {"adapter": {"None"}}),
    "read_adapter": (lora.read_adapter, {"folder": "python"}, {}),
    "find_base": (lambda folder: lora.find_base(folder), {"folder": "python"}, {}),
    "save_adapter": (lora.save_adapter, {"model": None, "folder": "out", "adapter": "bard"}, {"folder": {"a str"}}),
    "set_active": (lora.set_active, {"model": None, "choice": "bard"}, {"choice": {"None"}}),
    "active": (lora.active, {"model": None}, {}),
    "adapters": (lora.adapters, {"model": None}, {}),
    "delete_adapter": (lora.delete_adapter, {"model": None, "adapter": "bard"}, {}),
    "merge": (lora.merge, {"model": None}, {}),
    "unmerge": (lora.unmerge, {"model": None}, {}),
    "unload": (lora.unload, {"model": None}, {}),
    "merge_and_unload": (lora.merge_and_unload, {"model": None}, {}),
    "report": (lora.report, {"model": None}, {}),
    "mix": (lora.mix, {"model": None, "weights": {"bard": 1.0}, "adapter": "m", "how": "cat"}, {}),
    "load_settings": (runs.load_settings, {"preset": "demo"}, {}),
    "run": (runs.run, {"settings": None, "out": "out"}, {"out": {"a str"}}),
    "make_model": (runs.make_model, {"settings": None}, {}),
    "check": (laws.check, {"layer": None}, {}),
}
CASES = [
    (name, argument, wrong)
    for name, (_, given, valid) in FUNCTIONS.items()
    for argument in given
    for wrong in WRONG
    if wrong not in valid.get(argument, set())
]


@pytest.fixture
def model():
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Llama(LlamaConfig(vocab_size=256, max_position_embeddings=32, **shape), np.random.default_rng(0))
    lora.inject(model, r=1, adapter="bard")
    return model


@pytest.fixture
def saved(model, tmp_path_factory):
    """The folder of an adapter for the model."""
    folder = tmp_path_factory.mktemp("adapter")
    lora.save_adapter(model, folder, "bard")
    return folder


@pytest.mark.parametrize(("name", "argument", "wrong"), CASES)
def test_one_line_that_says_what_was_expected(name, argument, wrong, model, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, given, _ = FUNCTIONS[name]
    valid = {"model": model, "settings": runs.load_settings("demo"), "folder": saved}
    arguments = {key: valid.get(key) if value is None else value for key, value in given.items()}
    before = {key: array.copy() for key, array in model.state_dict().items()}
    with pytest.raises((TypeError, ValueError)) as caught:
        function(**{**arguments, argument: WRONG[wrong]})
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400
    assert any(
        word in said for word in ("expected", "should be", "unknown", "there is no", "no such", "is not", "has no")
    )
    assert {key: array.tobytes() for key, array in model.state_dict().items()} == {
        key: array.tobytes() for key, array in before.items()
    }
    assert not list(Path().iterdir())
    assert isinstance(model, Module)
