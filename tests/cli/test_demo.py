"""`minilora demo` from end to end on the packaged base, where there is no network and no corpus."""

import builtins
import dataclasses
import json
import shlex
import sys

import numpy as np
import pytest

from minilora import lora
from minilora.assets import BASE
from minilora.cli import demo, main, options
from minilora.files import read_tensors
from minilora.nn import Llama, LlamaConfig
from tests.gpu import standin

FIGURES = {
    "corpus",
    "base_parameters",
    "trainable_parameters",
    "val_loss_before",
    "val_loss_after",
    "base_val_loss_adapter_on",
    "base_val_loss_adapter_off",
    "merge_max_abs_logit_diff",
    "merge_max_abs_logit_diff_float64",
    "unmerge_bit_exact",
    "adapter_bytes",
    "base_bytes",
    "seconds",
}
COMMAND = ["demo", "--quick", "--iters", "3", "--json", "figures.json", "--out", "out"]


@pytest.fixture
def small(monkeypatch):
    """Short samples, few and small batches: the same demo in a tenth of the time."""
    chosen = demo._settings

    def fewer(flags):
        settings = chosen(flags)
        training = dataclasses.replace(settings.training, batch=8, context=64, eval_windows=8)
        return dataclasses.replace(settings, training=training)

    monkeypatch.setattr(demo, "_settings", fewer)
    monkeypatch.setattr(demo, "_length", lambda stage: 30)


@pytest.mark.skipif(not (BASE / "config.json").exists(), reason="the packaged base model is not here")
def test_the_demo_on_pastiche(small, capsys, tmp_path):
    assert main(COMMAND) == 0
    out = capsys.readouterr().out
    figures = json.loads((tmp_path / "work" / "figures.json").read_text())
    assert figures.keys() == FIGURES
    (line,) = [line for line in out.splitlines() if "could not be downloaded" in line]
    assert "pastiche" in line
    assert figures["corpus"].startswith("pastiche")

    base = Llama.from_pretrained(BASE)
    total = sum(p.size for p in base.parameters())
    assert figures["base_parameters"] == total
    adapter = read_tensors("out/adapter/adapter_model.safetensors")
    assert figures["trainable_parameters"] == sum(array.size for array in adapter.values())
    lora.load_adapter(base, "out/adapter")
    assert lora.report(base).trainable == figures["trainable_parameters"]

    assert figures["val_loss_after"] < figures["val_loss_before"]
    assert figures["base_val_loss_adapter_on"] != figures["base_val_loss_adapter_off"]
    assert figures["unmerge_bit_exact"] is True
    assert 0 < figures["merge_max_abs_logit_diff_float64"] < 1e-10
    assert figures["merge_max_abs_logit_diff_float64"] < figures["merge_max_abs_logit_diff"] < 1e-3
    assert figures["adapter_bytes"] == (tmp_path / "work/out/adapter/adapter_model.safetensors").stat().st_size
    assert figures["base_bytes"] == (BASE / "model.safetensors").stat().st_size
    assert figures["adapter_bytes"] < figures["base_bytes"]
    assert figures["seconds"] > 0

    for name in ("val_loss_before", "val_loss_after", "base_val_loss_adapter_on", "base_val_loss_adapter_off"):
        assert f"{figures[name]:.3f}" in out, name
    assert out.count("The king ") >= 5  # the samples: before, while it learns, and after


@pytest.fixture
def small_base(monkeypatch, tmp_path, here):
    """A base that takes no time, in place of the packaged one."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = tmp_path / "base"
    Llama(LlamaConfig(**shape, max_position_embeddings=128), np.random.default_rng(0)).save_pretrained(folder)
    for file in here.tiny.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    for module in (demo, options):
        monkeypatch.setattr(module, "BASE", folder)
    return folder


def test_the_picture_is_small(small, small_base, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert main(COMMAND) == 0
    picture = (tmp_path / "work/out/demo.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert 10_000 < len(picture) < 150_000
    assert "a picture of the losses and the parameters: out" in capsys.readouterr().out


def test_without_matplotlib_the_demo_ends_without_a_picture(small, small_base, capsys, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    load = builtins.__import__

    def refuse(name, *rest):
        if name.split(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(COMMAND) == 0
    out = capsys.readouterr().out
    assert "no picture: matplotlib is not installed" in out
    assert not list(tmp_path.rglob("*.png"))
    figures = json.loads((tmp_path / "work" / "figures.json").read_text())
    assert figures.keys() == FIGURES
    assert figures["unmerge_bit_exact"] is True


def test_what_it_says_to_try_next_works(small, capsys):
    assert main(COMMAND) == 0
    lines = capsys.readouterr().out.splitlines()
    suggested = [line.strip() for line in lines[-3:]]
    assert [line.split()[:2] for line in suggested] == [["minilora", c] for c in ("compare", "merge", "finetune")]
    compare, merge, finetune = (shlex.split(line)[1:] for line in suggested)
    assert main([*compare, "--tokens", "5"]) == 0
    assert main(merge) == 0
    assert main([*finetune, "--iters", "1"]) == 0


def test_the_demo_on_another_device(small, small_base, monkeypatch):
    """On a stand-in for a GPU, where a batch is one piece: the sums are rounded another way."""
    figures = []
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(sys.modules, "cupy", standin.module())
        assert main([*COMMAND, "--device", device]) == 0
        with open("figures.json") as file:
            figures.append(json.load(file))
    assert figures[1]["val_loss_after"] == pytest.approx(figures[0]["val_loss_after"], rel=1e-4)
    assert figures[1]["unmerge_bit_exact"] is True


def test_flags_of_the_demo(small, small_base, capsys):
    figures = []
    for flags in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"], ["--rank", "2", "--seed", "1"]):
        assert main([*COMMAND, *flags]) == 0
        with open("figures.json") as file:
            figures.append(json.load(file))
        figures[-1].pop("seconds")
    assert figures[0] == figures[1] != figures[2]
    assert figures[3]["trainable_parameters"] * 4 == figures[0]["trainable_parameters"]
