"""Runs from settings: the files in the folder, `run_steps`, resuming, and refused folders."""

import dataclasses
import json

import numpy as np
import pytest

from minilora import lora, runs
from minilora.data import ByteTokenizer, load_ids
from minilora.nn import Llama, LlamaConfig
from minilora.training import CheckpointError, History, Run

TEXT = "It was the best of times, it was the worst of times.\n" * 40


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A temporary working folder with a tiny base model and a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text(TEXT)
    shape = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    model = Llama(dataclasses.replace(shape, max_position_embeddings=32), np.random.default_rng(0))
    model.save_pretrained("base")
    ByteTokenizer().save("base")
    return tmp_path


@pytest.fixture
def settings():
    """settings(**changes): the demo preset with six steps, on the text and the tiny base."""
    small = {"iters": 6, "batch": 2, "context": 16, "warmup": 2, "eval_every": 3, "eval_windows": 4}

    def make(**changes):
        return runs.load_settings("demo", corpus=["text"], base="base", **{**small, **changes})

    return make


def test_a_run_leaves_the_result_its_settings_and_its_losses(folder, settings, capsys):
    history = runs.run(settings(), "out")
    assert isinstance(history, History)
    assert len(history.losses) == 6
    assert {path.name for path in (folder / "out").iterdir()} == {
        *(
            "run.toml",
            "history.json",
            "log.csv",
            "checkpoint.safetensors",
            "adapter_config.json",
            "adapter_model.safetensors",
        ),
    }
    assert runs.load_settings("out/run.toml") == settings().absolute()
    recorded = json.loads((folder / "out" / "history.json").read_text())
    assert recorded["losses"] == pytest.approx(history.losses, abs=1e-5)
    lora.load_adapter(Llama.from_pretrained("base"), "out")
    assert "training on text: 1,908 bytes, 212 held out" in capsys.readouterr().out


def test_quiet_says_nothing(settings, capsys):
    runs.run(settings(), "out", quiet=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("changes", [{}, {"method": "dora"}, {"method": "full"}, {"fresh": True}], ids=str)
def test_step_by_step_it_is_the_same_run(changes, folder, settings):
    """`run_steps` gives the same result in memory, without writing any file."""
    history = runs.run(settings(**changes), "out", quiet=True)
    before = sorted(folder.rglob("*"))
    *_, last = runs.run_steps(settings(**changes))
    assert last.history == history
    assert sorted(folder.rglob("*")) == before


def test_texts_of_ones_own(settings):
    """Token ids replace the corpus, and the adapter has a given name."""
    ids = ByteTokenizer().encode(TEXT)
    texts = ids[:-212], ids[-212:]
    assert all(np.array_equal(a, b) for a, b in zip(texts, load_ids("text"), strict=True))
    named = runs.load_settings("demo", corpus=["nowhere"])
    chosen = dataclasses.replace(settings(), corpus=named.corpus)
    first = next(runs.run_steps(chosen, texts, adapter="dickens"))
    assert first.model.adapters == ["dickens"]
    assert first.history.losses == next(runs.run_steps(settings())).history.losses


def test_a_run_is_resumed_where_it_stopped(folder, settings, monkeypatch):
    whole = runs.run(settings(checkpoint_every=2), "whole", quiet=True)
    calls = iter(range(4))
    step = Run.step
    monkeypatch.setattr("minilora.training.run.Run.step", lambda self: step(self) if next(calls) < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runs.run(settings(checkpoint_every=2), "out", quiet=True)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert runs.run(runs.load_settings("out/run.toml"), "out", resume=True, quiet=True).losses == whole.losses
    with pytest.raises(CheckpointError, match=r"was saved with lr = 0\.005, but this run has 0\.5"):
        runs.run(settings(checkpoint_every=2, lr=0.5), "out", resume=True, quiet=True)


def test_a_used_folder_is_refused_and_stays(folder, settings):
    runs.run(settings(), "out", quiet=True)
    before = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    with pytest.raises(ValueError, match="out already contains a run"):
        runs.run(settings(iters=2), "out", quiet=True)
    with pytest.raises(ValueError, match="base already contains a model or an adapter"):
        runs.run(settings(iters=2), "base", quiet=True)
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before


def test_the_same_seed_makes_the_same_model(settings):
    first, second, other = (runs.make_model(settings(seed=seed)).state_dict() for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)
