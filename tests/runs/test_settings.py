"""Presets, changes to presets, and run.toml, which can be loaded like a preset."""

import dataclasses

import pytest

from minilora.data import corpora
from minilora.runs import load_settings, presets
from minilora.runs.settings import CHANGEABLE
from minilora.training import TrainingConfig

VALUES = {"corpus": ["a.txt", 'a "quoted" C:\\path', "Ä 🦙\t日本"], "base": "runs/base 🦙", "method": "full"}
VALUES |= {
    "ascii": True,
    "encoding": "cp1252",
    "dtype": "float16",
    "targets": ["k_proj", "up_proj"],
    "alpha": 7.5,
    "dropout": 0.125,
    "lr": 3e-05,
}
VALUES |= {"start": "shakespeare", "keep": "best"}
VALUES |= {"layers": 3, "heads": 8, "kv_heads": 2, "hidden": 64}


VALUES |= {"optimizer": "sgd", "schedule": "linear", "beta1": 0.5, "beta2": 0.5}


def value_of(change):
    return VALUES.get(change, 13)


def entry(chosen, change):
    section, name = CHANGEABLE[change]
    return getattr(getattr(chosen, section) if section else chosen, name, None)  # full training has no adapter


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_makes_sense(name):
    chosen = load_settings(name)
    assert {name.partition(":")[0] for name in chosen.corpus} <= set(corpora.names())
    assert chosen.training.context <= (chosen.model.max_position_embeddings if chosen.model else 256)
    assert chosen.training.warmup < chosen.training.iters
    assert chosen.training.min_lr < chosen.training.lr
    assert set(presets()) >= {"base", "demo", "nanogpt-cpu"}


@pytest.mark.parametrize("change", CHANGEABLE)
def test_a_change_overrides_its_entry_and_no_other(change, tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text("[model]\nnum_attention_heads = 4\nhidden_size = 32\n[lora]\nlora_alpha = 99")
    before, after = load_settings(preset), load_settings(preset, **{change: value_of(change)})
    assert entry(before, change) != value_of(change)
    assert entry(after, change) == value_of(change)
    changed = {other for other in CHANGEABLE if entry(before, other) != entry(after, other)}
    derived = {
        "lr": {"min_lr"},
        "start": {"method", "rank", "alpha", "dropout", "targets"},
        "rank": {"alpha"},
        "heads": {"kv_heads"},
        "method": {"rank", "alpha", "dropout", "targets"},
    }
    assert changed - derived.get(change, set()) == {change}


@pytest.mark.parametrize(("changes", "alpha"), [({}, 16), ({"rank": 3}, 6), ({"rank": 3, "alpha": 1.5}, 1.5)])
def test_another_rank_keeps_the_scale(changes, alpha):
    assert load_settings("demo", **changes).adapter.lora_alpha == alpha
    assert load_settings("base", context=48).model.max_position_embeddings == 48  # also sets the context of a new model


@pytest.mark.parametrize("name", presets())
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {name: value_of(name) for name in CHANGEABLE if name != "start"},
        {"start": "python"},
        {"targets": r".*\.(q|v)_proj"},
    ],
)
def test_run_toml_is_the_same_settings_again(name, changes, tmp_path):
    chosen = load_settings(name, **changes)
    assert chosen.save(tmp_path) == tmp_path / "run.toml"
    assert load_settings(tmp_path / "run.toml") == chosen
    first = (tmp_path / "run.toml").read_bytes()
    load_settings(tmp_path / "run.toml").save(tmp_path)
    assert (tmp_path / "run.toml").read_bytes() == first


def test_run_toml_keeps_patterns_and_lists(tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text(
        "[lora]\nlayers_to_transform = [0, 2]\nuse_rslora = true\ninit_lora_weights = 'gaussian'\n"
        "rank_pattern = {'q_proj' = 4, 'layers\\.0\\..*v_proj' = 2}\nalpha_pattern = {v_proj = 0.5}\n"
        "exclude_modules = ['lm_head']\n"
    )
    chosen = load_settings(preset)
    assert list(chosen.adapter.rank_pattern.items()) == [("q_proj", 4), (r"layers\.0\..*v_proj", 2)]
    chosen.save(tmp_path)
    again = load_settings(tmp_path / "run.toml")
    assert again == chosen
    assert list(again.adapter.rank_pattern) == list(chosen.adapter.rank_pattern)  # the first match applies


def test_another_learning_rate_keeps_the_shape_of_the_schedule():
    assert load_settings("demo").training.min_lr == 5e-4
    assert load_settings("demo", lr=5e-5).training.min_lr == pytest.approx(5e-6)
    assert load_settings("demo", lr=5e-5, min_lr=1e-5).training.min_lr == 1e-5
    assert TrainingConfig(lr=1e-6, warmup=2).learning_rate(999) <= 1e-6  # min_lr is 1e-4


def test_a_run_of_a_fresh_model_or_of_a_base():
    """The preset decides, unless `fresh` is given, as by `minilora pretrain` and `minilora finetune`."""
    assert load_settings("base").model.hidden_size == 192
    assert load_settings("base", fresh=False).model is None
    assert load_settings("demo").model is None
    pretraining = load_settings("demo", fresh=True, layers=2, context=64)
    assert (pretraining.method, pretraining.adapter) == ("full", None)
    assert (pretraining.model.num_hidden_layers, pretraining.model.max_position_embeddings) == (2, 64)


def test_an_unknown_setting_is_refused():
    with pytest.raises(
        ValueError, match=r"unknown settings: rnak; valid settings: corpus, ascii, encoding, base, .*, rank, "
    ):
        load_settings("demo", rnak=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("corpus = [", "is not valid TOML"),
        ("corpse = ['x']", "unknown entries: corpse"),
        ("[training]\nitters = 3", r"unknown entries in \[training\]: itters; valid entries: iters, batch"),
        ("[lora]\nrank = 3", r"unknown entries in \[lora\]: rank; valid entries: .*, r, "),
        ("training = 3", "expected `training` to be a table, got 3"),
        ("[training]\niters = 'ten'", "expected `iters` to be a positive integer, got 'ten'"),
        ("[training]\nlr = 'fast'", "expected `lr` to be a number, got 'fast'"),
        ("method = 'lorra'", "expected `method` to be one of lora, .*full, got 'lorra'"),
        ("corpus = 'tinyshakespeare'", "expected `corpus` to be a list of names"),
        ("ascii = 'yes'", "expected `ascii` to be true or false, got 'yes'"),
        ("encoding = 8", "expected `encoding` to be the name of an encoding, such as cp1252, got 8"),
    ],
)
def test_an_invalid_preset_is_refused(text, words, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        load_settings(tmp_path / "mine.toml")
    assert "\n" not in str(caught.value)


def test_every_setting_is_written(tmp_path):
    """Every setting of a run is saved, so that a later change of a default cannot affect it."""
    chosen = load_settings("demo", fresh=False)
    text = chosen.save(tmp_path).read_text()
    for table in ("adapter", "training"):
        for name, value in dataclasses.asdict(getattr(chosen, table)).items():
            assert value is None or f"\n{name} = " in text, name


@pytest.mark.parametrize(("iters", "warmup"), [(40, 8), (99, 19), (100, 20), (1000, 20)])
def test_a_short_run_has_a_short_warmup(iters, warmup):
    assert load_settings("demo").training.warmup == 20
    assert load_settings("demo", iters=iters).training.warmup == warmup
    assert load_settings("demo", iters=iters, warmup=30).training.warmup == 30
