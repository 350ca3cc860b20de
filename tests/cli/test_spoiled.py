"""Folders that are cut short, incomplete or of something else are refused in one line, by name."""

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


def not_numbers(path):
    write_tensors(path, {name: a * np.float32(np.nan) for name, a in read_tensors(path).items()})


SPOILED = {
    "empty": (cut(0), "is not a whole safetensors file", "is not a whole safetensors file"),
    "header cut": (cut(0.01), "is not a whole safetensors file", "is not a whole safetensors file"),
    "data cut": (cut(0.99), "is not a whole safetensors file", "is not a whole safetensors file"),
    "missing tensor": (without_the_first, "missing model", "lacks .*lora_A.weight, which its config asks for"),
    "extra tensor": (one_more, "unknown model.surprise.weight", "holds model.surprise.weight, which its config does"),
    "wrong shapes": (wider, "should have shape", "should have shape"),
    "no file": (lambda path: path.unlink(), "does not exist", "does not exist"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_model(case, here, fails):
    spoil, words, _ = SPOILED[case]
    spoil(here.root / MODEL)
    for command in ("generate --tokens 3", "merge --adapter {bard} --out out", "eval --corpus {verse}"):
        line = fails(*command.format(**vars(here)).split(), "--model", here.tiny)
        assert re.search(words, line)
        assert str(here.tiny) in line
    assert re.search(words, fails("info", here.tiny))
    assert not list(here.work.iterdir())


@pytest.mark.parametrize("case", [*SPOILED, "not finite"])
def test_a_spoiled_adapter(case, here, fails):
    spoil, _, words = {**SPOILED, "not finite": (not_numbers, "", "not finite")}[case]
    spoil(here.root / ADAPTER)
    flags = ["--model", here.tiny, "--adapter", here.bard]
    for command in ("generate --tokens 3", "merge --out out", "eval --corpus {verse}"):
        line = fails(*command.format(**vars(here)).split(), *flags)
        assert re.search(words, line)
        assert str(here.bard) in line
    assert not list(here.work.iterdir())


def test_info_on_an_adapter_without_its_b(here, fails):
    tensors = {n: a for n, a in read_tensors(here.root / ADAPTER).items() if "up_proj.lora_B" not in n}
    write_tensors(here.root / ADAPTER, tensors)
    assert "up_proj.lora_B.weight, which its config asks for" in fails("info", here.bard)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tiny/config.json", "{", "is not valid JSON"),
        ("tiny/config.json", "[]", "should hold a JSON object"),
        ("tiny/config.json", '{"hidden_size": 16}', "lacks vocab_size"),
        ("tiny/tokenizer.json", '{"model": {"type": "Unigram"}}', "is another tokenizer"),
        ("bard/adapter_config.json", "{", "is not valid JSON"),
        ("bard/adapter_config.json", '{"peft_type": "LORA"}', "lacks r, lora_alpha"),
        ("bard/adapter_config.json", '{"peft_type": "IA3"}', "expected an adapter of peft_type 'LORA'"),
    ],
)
def test_a_spoiled_config(file, content, words, here, fails):
    (here.root / file).write_text(content)
    assert words in fails("generate", "--model", here.tiny, "--adapter", here.bard, "--tokens", 3)


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "vocab_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", ["16", 0, -2, 2.5, None, [16]])
def test_numbers_in_a_config_that_are_none(name, value, here, fails):
    path = here.tiny / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert fails("info", here.tiny)


def test_an_adapter_of_another_model(here, minilora, fails):
    minilora("pretrain", "--preset", here.tiny / "run.toml", "--hidden", 12, "--out", "other")
    line = fails("generate", "--model", "other", "--adapter", here.bard, "--tokens", 3)
    assert re.search(r"should have shape \(.*\) on this model, found", line)
