"""`minilora pretrain` and `minilora finetune`: the files that they save, and that these match their output."""

import json
import re

import numpy as np
import pytest

from minilora import lora
from minilora.data import ByteTokenizer, load_ids
from minilora.files import read_tensors
from minilora.nn import Llama
from minilora.runs import load_settings
from minilora.training import evaluate

RUN = {"run.toml", "history.json", "log.csv", "checkpoint.safetensors"}
MODEL = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_pretraining_leaves_a_model_and_the_record_of_its_run(original):
    tiny = original / "tiny"
    assert names(tiny) == RUN | MODEL
    model = Llama.from_pretrained(tiny)
    ByteTokenizer.load(tiny)
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.intermediate_size) == (1, 16, 32)
    assert (model.config.num_attention_heads, model.config.max_position_embeddings) == (2, 16)
    history = json.loads((tiny / "history.json").read_text())
    assert len(history["losses"]) == 5
    assert [step for step, _ in history["evaluations"]] == [0, 5]
    _, val_ids = load_ids([str(original / "text")])
    windows = load_settings(str(tiny / "run.toml")).training.eval_windows
    assert evaluate(model, val_ids, 16, windows) == pytest.approx(history["evaluations"][-1][1], rel=1e-6)


def test_lora_leaves_an_adapter_and_the_base_as_it_was(here, minilora, adapt, contents):
    before = contents(here.tiny)
    out = minilora("finetune", "--model", here.tiny, "--corpus", here.verse, *adapt, "--rank", 4, "--out", "new")
    assert contents(here.tiny) == before
    assert names(here.work / "new") == RUN | ADAPTER
    model = Llama.from_pretrained(here.tiny)
    lora.load_adapter(model, "new")
    tensors = read_tensors("new/adapter_model.safetensors")
    assert {array.shape[0 if ".lora_A." in name else 1] for name, array in tensors.items()} == {4}
    assert all(array.any() for array in tensors.values())  # B was initialized to zero
    said = re.search(r"validation loss (\d+\.\d+) nats per byte; saved in new", out)
    _, val_ids = load_ids([str(here.verse)])
    windows = load_settings("new/run.toml").training.eval_windows
    assert evaluate(model, val_ids, 16, windows) == pytest.approx(float(said[1]), abs=1e-4)


def test_full_fine_tuning_leaves_a_model_that_begins_as_the_base(here, minilora, adapt):
    flags = ["finetune", "--method", "full", "--model", here.tiny, "--corpus", here.text, *adapt]
    minilora(*flags, "--out", "new")
    assert names(here.work / "new") == RUN | MODEL
    before, after = (Llama.from_pretrained(folder).state_dict() for folder in (here.tiny, "new"))
    assert all((before[name] != after[name]).any() for name in before)
    first = [json.loads((f / "history.json").read_text())["evaluations"] for f in (here.tiny, here.work / "new")]
    assert first[1][0][1] == pytest.approx(first[0][-1][1], rel=0.05)  # the same text, but different windows


def test_targets_and_dtype(here, minilora, adapt):
    flags = ["finetune", "--model", here.tiny, "--corpus", here.verse, *adapt]
    minilora(*flags, "--targets", "q_proj,down_proj", "--dtype", "float16", "--out", "named")
    tensors = read_tensors("named/adapter_model.safetensors")
    assert {name.split(".")[-3] for name in tensors} == {"q_proj", "down_proj"}
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float16)}
    minilora(*flags, "--targets", r".*mlp\.(up|gate)_proj", "--out", "expression")
    tensors = read_tensors("expression/adapter_model.safetensors")
    assert {name.split(".")[-3] for name in tensors} == {"up_proj", "gate_proj"}


def test_the_recorded_settings_are_those_that_were_used(here, minilora, adapt):
    flags = ["--rank", 2, "--dropout", 0.25, "--seed", 7, "--out", "new"]
    minilora("finetune", "--model", here.tiny, "--corpus", here.verse, *adapt, *flags)
    expected = {"corpus": [str(here.verse)], "base": str(here.tiny), "rank": 2, "dropout": 0.25, "seed": 7}
    expected |= {"context": 16, "batch": 4, "iters": 5, "lr": 0.05}
    assert load_settings("new/run.toml") == load_settings("demo", **expected)


def test_run_toml_as_a_preset_makes_the_same_bytes_again(here, minilora, contents):
    minilora("finetune", "--preset", here.bard / "run.toml", "--out", "again")
    assert contents(here.work / "again") == contents(here.bard)
    minilora("finetune", "--preset", here.bard / "run.toml", "--seed", 99, "--out", "other")
    first, other = (read_tensors(folder / "adapter_model.safetensors") for folder in (here.bard, here.work / "other"))
    assert all((first[name] != other[name]).any() for name in first)


def test_several_corpora_are_joined(here, minilora, adapt):
    out = minilora("finetune", "--model", here.tiny, "--corpus", here.text, here.verse, *adapt, "--out", "new")
    train, val = load_ids([str(here.text), str(here.verse)])
    assert f"{len(train):,} bytes, {len(val):,} held out" in out


@pytest.mark.parametrize("name", ["bard", "tiny"])
def test_resuming_a_finished_run_changes_nothing(name, here, minilora, contents):
    folder = getattr(here, name)
    before = contents(folder)
    minilora("finetune" if name == "bard" else "pretrain", "--resume", "--out", folder)
    assert contents(folder) == before


def test_a_run_that_ends_worse_than_it_was_says_so(here, minilora, adapt, monkeypatch):
    losses = iter([2.0, 1.25, 1.5])
    monkeypatch.setattr("minilora.training.run.evaluate", lambda *_, **options: next(losses))
    (here.work / "mine.toml").write_text(PRESET)
    out = minilora("finetune", "--preset", "mine.toml", "--model", here.tiny, "--corpus", here.verse, "--out", "new")
    assert out.splitlines()[-2:] == [
        "validation loss 1.5000 nats per byte; saved in new",
        "the validation loss was lower after step 2: 1.2500; --keep best would have saved that state",
    ]


def test_a_run_that_only_does_harm_says_so(here, minilora, adapt, monkeypatch):
    losses = iter([1.0, 1.5])
    monkeypatch.setattr("minilora.training.run.evaluate", lambda *_, **options: next(losses))
    out = minilora("finetune", "--model", here.tiny, "--corpus", here.verse, *adapt, "--out", "new")
    assert "was lower after step 0: 1.0000; a lower learning rate (--lr) may give a better result" in out


PRESET = """
method = "lora"
[lora]
r = 2
[training]
iters = 4
batch = 2
context = 16
eval_every = 2
eval_windows = 2
"""


@pytest.mark.parametrize(
    "words", [["q_proj,down_proj"], ["q_proj", "down_proj"], ["q_proj, down_proj"], ["q_proj,", "down_proj"]], ids=str
)
def test_targets_are_separated_by_spaces_or_commas(words, here, minilora, adapt):
    flags = ["finetune", "--model", here.tiny, "--corpus", here.verse, *adapt, "--targets", *words]
    minilora(*flags, "--out", "new")
    assert lora.read_adapter("new")[0].target_modules == ["down_proj", "q_proj"]
