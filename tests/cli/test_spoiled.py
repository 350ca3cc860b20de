"""A truncated, incomplete or mismatched model or adapter is rejected with a one-line error."""

import json
import re

import numpy as np
import pytest

from minilora.files import read_tensors, write_tensors

MODEL, ADAPTER = "tiny/model.safetensors", "bard/adapter_model.safetensors"


def cut(part):
    def spoil(path):
        path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])

    return spoil


def without_the_first(path):
    tensors = read_tensors(path)
    tensors.pop(min(tensors))
    write_tensors(path, tensors)


def one_more(path):
    write_tensors(path, {**read_tensors(path), "model.surprise.weight": np.zeros((2, 2), np.float32)})


def wider(path):
    write_tensors(path, {name: np.concatenate([a, a], axis=-1) for name, a in read_tensors(path).items()})


SPOILED = {
    "empty": (cut(0), "is not a valid safetensors file", "is not a valid safetensors file"),
    "data cut": (cut(0.99), "is not a valid safetensors file", "is not a valid safetensors file"),
    "missing tensor": (without_the_first, "missing model", "is missing .*lora_A.weight, which its config requires"),
    "extra tensor": (
        one_more,
        "unknown model.surprise.weight",
        "contains model.surprise.weight, which its config does",
    ),
    "wrong shapes": (wider, "should have shape", "should have shape"),
    "no file": (lambda path: path.unlink(), "does not exist", "does not exist"),
}


@pytest.mark.parametrize("part", ["model", "adapter"])
@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_folder(case, part, here, fails):
    spoil, *words = SPOILED[case]
    file, folder, words = (MODEL, here.tiny, words[0]) if part == "model" else (ADAPTER, here.bard, words[1])
    spoil(here.root / file)
    for command in ("generate --tokens 3", "merge --out out", "eval --corpus {verse}"):
        line = fails(*command.format(**vars(here)).split(), "--model", here.tiny, "--adapter", here.bard)
        assert re.search(words, line)
        assert str(folder) in line
    assert re.search(words, fails("info", folder))
    assert not list(here.work.iterdir())


def test_an_adapter_that_is_not_finite(here, fails):
    tensors = read_tensors(here.root / ADAPTER)
    write_tensors(here.root / ADAPTER, {name: a * np.float32(np.nan) for name, a in tensors.items()})
    assert "not finite" in fails("generate", "--model", here.tiny, "--adapter", here.bard)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tiny/config.json", "{", "is not valid JSON"),
        ("tiny/config.json", '{"hidden_size": 16}', "lacks vocab_size"),
        ("tiny/tokenizer.json", '{"model": {"type": "Unigram"}}', "is a different tokenizer"),
        ("bard/adapter_config.json", "{", "is not valid JSON"),
        ("bard/adapter_config.json", '{"peft_type": "LORA"}', "is missing r, lora_alpha"),
    ],
)
def test_a_spoiled_config(file, content, words, here, fails):
    (here.root / file).write_text(content)
    assert words in fails("generate", "--model", here.tiny, "--adapter", here.bard, "--tokens", 3)


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "vocab_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", ["16", 0, -2, 2.5, None, [16]])
def test_invalid_sizes_in_a_config(name, value, here, fails):
    path = here.tiny / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert fails("info", here.tiny)


def test_an_adapter_of_another_model(here, minilora, fails):
    minilora("pretrain", "--preset", here.tiny / "run.toml", "--hidden", 12, "--out", "other")
    line = fails("generate", "--model", "other", "--adapter", here.bard, "--tokens", 3)
    assert re.search(
        r"should have shape \(.*\), found .*; the adapter was made for a base model with different dimensions", line
    )
