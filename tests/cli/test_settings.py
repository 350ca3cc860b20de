"""Presets, flags over presets, and run.toml, which is a preset again."""

import dataclasses
from argparse import Namespace
from pathlib import Path

import pytest

from minilora.cli.settings import FLAGS, presets, settings, write
from minilora.data import corpora

VALUES = {"corpus": ["a.txt", 'a "quoted" C:\\path', "Ä 🦙\t日本"], "model": "runs/base 🦙", "method": "full"}
VALUES |= {"dtype": "float16", "targets": ["k_proj", "up_proj"], "alpha": 7.5, "dropout": 0.125, "lr": 3e-05}
VALUES |= {"layers": 3, "heads": 8, "kv_heads": 2, "hidden": 64}


def value_of(flag):
    return VALUES.get(flag, 13)


def entry(chosen, flag):
    section, name = FLAGS[flag]
    return getattr(getattr(chosen, section) if section else chosen, name, None)  # in full there is no adapter


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_makes_sense(name):
    chosen = settings(name)
    assert {name.partition(":")[0] for name in chosen.corpus} <= set(corpora.names())
    assert chosen.training.context <= chosen.model.max_position_embeddings
    assert chosen.training.warmup < chosen.training.iters
    assert chosen.training.min_lr < chosen.training.lr
    assert set(presets()) >= {"base", "demo", "nanogpt-cpu"}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_overrides_its_entry_and_no_other(flag, tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text("[model]\nnum_attention_heads = 4\nhidden_size = 32\n[lora]\nlora_alpha = 99")
    before, after = settings(str(preset)), settings(str(preset), Namespace(**{flag: value_of(flag)}))
    assert entry(before, flag) != value_of(flag)
    assert entry(after, flag) == value_of(flag)
    changed = {other for other in FLAGS if entry(before, other) != entry(after, other)}
    derived = {"rank": {"alpha"}, "heads": {"kv_heads"}, "method": {"rank", "alpha", "dropout", "targets"}}
    assert changed - derived.get(flag, set()) == {flag}


@pytest.mark.parametrize(("flags", "alpha"), [({}, 16), ({"rank": 3}, 6), ({"rank": 3, "alpha": 1.5}, 1.5)])
def test_another_rank_keeps_the_scale(flags, alpha):
    assert settings("demo", Namespace(**flags)).adapter.lora_alpha == alpha
    assert settings("base", Namespace(context=48)).model.max_position_embeddings == 48  # the new model's, too


@pytest.mark.parametrize("name", presets())
@pytest.mark.parametrize("flags", [{}, {flag: value_of(flag) for flag in FLAGS}, {"targets": r".*\.(q|v)_proj"}])
def test_run_toml_is_the_same_settings_again(name, flags, tmp_path):
    chosen = settings(name, Namespace(**flags))
    assert write(tmp_path, chosen) == tmp_path / "run.toml"
    assert settings(str(tmp_path / "run.toml")) == chosen
    first = (tmp_path / "run.toml").read_bytes()
    write(tmp_path, settings(str(tmp_path / "run.toml")))
    assert (tmp_path / "run.toml").read_bytes() == first


def test_run_toml_keeps_patterns_and_lists(tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text(
        "[lora]\nlayers_to_transform = [0, 2]\nuse_rslora = true\ninit_lora_weights = 'gaussian'\n"
        "rank_pattern = {'q_proj' = 4, 'layers\\.0\\..*v_proj' = 2}\nalpha_pattern = {v_proj = 0.5}\n"
        "exclude_modules = ['lm_head']\n"
    )
    chosen = settings(str(preset))
    assert list(chosen.adapter.rank_pattern.items()) == [("q_proj", 4), (r"layers\.0\..*v_proj", 2)]
    write(tmp_path, chosen)
    again = settings(str(tmp_path / "run.toml"))
    assert again == chosen
    assert list(again.adapter.rank_pattern) == list(chosen.adapter.rank_pattern)  # the first that matches counts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("corpus = [", "is not valid TOML"),
        ("corpse = ['x']", "has no entry corpse"),
        ("[training]\nitters = 3", r"\[training\] has no entry itters; it has iters, batch"),
        ("[lora]\nrank = 3", r"\[lora\] has no entry rank; it has .*, r, "),
        ("training = 3", "training should be a table, got 3"),
        ("[training]\niters = 'ten'", "iters should be a whole number of at least 1, got 'ten'"),
        ("[training]\nlr = 'fast'", "lr|training"),
        ("method = 'lorra'", "method should be one of lora, .*full, got 'lorra'"),
        ("corpus = 'tinyshakespeare'", "corpus should be a list of names"),
    ],
)
def test_a_preset_that_means_nothing(text, words, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        settings(str(tmp_path / "mine.toml"))
    assert "\n" not in str(caught.value)


def test_every_setting_is_written(tmp_path):
    """Nothing that decides what a run does is left to a default that may change."""
    chosen = settings("demo")
    text = Path(write(tmp_path, chosen)).read_text()
    for table in ("model", "adapter", "training"):
        for name, value in dataclasses.asdict(getattr(chosen, table)).items():
            assert value is None or f"\n{name} = " in text, name
