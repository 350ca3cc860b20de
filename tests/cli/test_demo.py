"""`minilora demo` from end to end on the packaged base, where there is no network and no corpus."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from minilora import lora
from minilora.assets import BASE
from minilora.cli import demo, main
from minilora.files import read_tensors
from minilora.nn import Llama, LlamaConfig
from minilora.runs import runner
from tests.gpu import standin

FIGURES = """
corpus base_parameters trainable_parameters val_loss_before val_loss_after base_val_loss_adapter_on
base_val_loss_adapter_off merge_max_abs_logit_diff merge_max_abs_logit_diff_float64 unmerge_bit_exact
adapter_bytes base_bytes seconds
"""
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


@pytest.fixture
def figures(small):
    """figures(*flags): what the demo writes down."""

    def run(*flags):
        assert main([*COMMAND, *flags]) == 0
        return json.loads(Path("figures.json").read_text())

    return run


@pytest.mark.skipif(not (BASE / "config.json").exists(), reason="the packaged base model is not here")
def test_the_demo_on_pastiche(figures, capsys, tmp_path):
    figures = figures()
    out = capsys.readouterr().out
    assert figures.keys() == set(FIGURES.split())
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
    for module in (demo, runner):
        monkeypatch.setattr(module, "BASE", folder)
    return folder


def test_the_picture_is_small(figures, small_base, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    figures()
    picture = (tmp_path / "work/out/demo.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert 10_000 < len(picture) < 150_000
    assert "plot of the losses and the parameter counts: out" in capsys.readouterr().out


def test_without_matplotlib_the_demo_ends_without_a_picture(figures, small_base, capsys, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as Python marks a module that cannot be found
    assert figures().keys() == set(FIGURES.split())
    assert "no plot: matplotlib is not installed" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.png"))


def test_what_it_says_to_try_next_works(small, capsys):
    assert main(COMMAND) == 0
    lines = capsys.readouterr().out.splitlines()
    suggested = [line.strip() for line in lines[-3:]]
    assert [line.split()[:2] for line in suggested] == [["minilora", c] for c in ("compare", "merge", "finetune")]
    compare, merge, finetune = (shlex.split(line)[1:] for line in suggested)
    assert main([*compare, "--tokens", "5"]) == 0
    assert main(merge) == 0
    assert main([*finetune, "--iters", "1"]) == 0


def test_the_demo_on_another_device(figures, small_base, monkeypatch):
    """On a stand-in for a GPU, where a batch is one piece: the sums are rounded another way."""
    host = figures("--device", "cpu")
    monkeypatch.setitem(sys.modules, "cupy", standin.module())
    card = figures("--device", "cuda")
    assert card["val_loss_after"] == pytest.approx(host["val_loss_after"], rel=1e-4)
    assert card["unmerge_bit_exact"] is True


def test_flags_of_the_demo(figures, small_base):
    one, again, other, small = (figures("--seed", *rest) for rest in (["1"], ["1"], ["2"], ["1", "--rank", "2"]))
    assert {**one, "seconds": 0} == {**again, "seconds": 0} != {**other, "seconds": 0}
    assert small["trainable_parameters"] * 4 == one["trainable_parameters"]
