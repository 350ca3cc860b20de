"""A checkpoint holds everything, and one that does not fit is refused in one line, before anything changes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import lora
from minilora.files import read_tensors, write_tensors
from minilora.training import AdamW, CheckpointError, History, TrainingConfig, checkpoint


@pytest.fixture
def saved(make_model, config, run, tmp_path):
    """The checkpoint of a finished run of LoRA."""
    path = tmp_path / "checkpoint.safetensors"
    run(make_model("lora"), config(), path)
    return path


@pytest.fixture(scope="session")
def refused(run, bits):
    """refused(model, config, path, words, ...): resuming fails with `words`, in one line, and nothing changes."""

    def check(model, config, path, words, **options):
        before, file = bits(model), path.read_bytes() if path.is_file() else None
        with pytest.raises(CheckpointError, match=words) as caught:
            run(model, config, path, resume=True, **options)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("cannot resume: ")
        assert bits(model) == before
        assert file == (path.read_bytes() if path.is_file() else None)

    return check


def test_it_brings_back_all_that_was_saved(make_model, tmp_path):
    """Parameters, both moments, the step, the generator and the losses, bit for bit, in place."""
    rng, path = np.random.default_rng(8), tmp_path / "checkpoint"
    models = [make_model(), make_model("full", initializer_range=0.1)]
    first, second = (AdamW(model.named_parameters()) for model in models)
    for array in (first.data, first.m, first.v):
        array[...] = rng.standard_normal(first.data.shape)
    first.steps = 41
    history = History([1.5, 0.1 + 0.2], [(0, 2.5), (2, 1 / 3)])
    checkpoint.save(path, first, rng, history, {"lr": 0.1})
    state = rng.bit_generator.state
    other_rng, other_history = np.random.default_rng(9), History([9.0], [])
    views = [p.data for p in models[1].parameters()]
    checkpoint.load(path, second, other_rng, other_history, {"lr": 0.1})
    for name in ("data", "m", "v"):
        assert getattr(second, name).tobytes() == getattr(first, name).tobytes(), name
    assert second.steps == 41
    assert other_rng.bit_generator.state == state
    assert other_history == history
    assert all(p.data is view for p, view in zip(models[1].parameters(), views, strict=True))
    assert [p.data.tobytes() for p in models[0].parameters()] == [p.data.tobytes() for p in models[1].parameters()]


def test_a_half_used_random_number_is_saved_too(make_model, tmp_path):
    """A generator may hold back half of a 64-bit draw; the next 32-bit draw takes it."""
    rng, path = np.random.default_rng(1), tmp_path / "checkpoint"
    rng.integers(0, 100, 3)
    optimizer = AdamW(make_model().named_parameters())
    checkpoint.save(path, optimizer, rng, History(), {})
    other = np.random.default_rng(2)
    checkpoint.load(path, optimizer, other, History(), {})
    assert other.integers(0, 100, 5).tolist() == rng.integers(0, 100, 5).tolist()


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainingConfig)])
def test_other_settings(name, saved, make_model, config, refused):
    value = getattr(config(), name)
    other = config(**{name: value + 1 if isinstance(value, int) else value / 2})
    refused(make_model("lora"), other, saved, f"was made with {name} = ")


@pytest.mark.parametrize("which", ["train_ids", "val_ids"])
def test_other_data(which, saved, make_model, config, ids, refused):
    changed = {"train_ids": ids[:300].copy(), "val_ids": ids[300:].copy()}[which]
    changed[7] += 1
    word = {"train_ids": "data", "val_ids": "validation data"}[which]
    refused(make_model("lora"), config(), saved, f"was made with {word} = ", **{which: changed})


def test_text_moved_from_one_part_to_the_other(saved, make_model, config, ids, refused):
    refused(make_model("lora"), config(), saved, "data = ", train_ids=ids[:299], val_ids=ids[299:])


def test_another_frozen_base(saved, make_model, config, refused):
    model = make_model("lora")
    weight = model.model.layers[0].mlp.up_proj.weight.data
    weight.view(np.uint32)[0, 0] ^= 1  # the last bit of one number
    refused(model, config(), saved, "was made with frozen parameters = ")


def test_other_parameters(saved, make_model, config, refused):
    refused(make_model("full"), config(), saved, "trains other parameters")
    model = make_model()
    lora.inject(model, lora.LoraConfig(r=3, target_modules="all-linear"), rng=np.random.default_rng(0))
    refused(model, config(), saved, "trains other parameters")


@pytest.mark.parametrize(("name", "value"), [("lora_alpha", 8), ("lora_dropout", 0.5), ("use_rslora", True)])
def test_other_settings_of_the_adapter(name, value, saved, make_model, config, refused):
    """They show in no tensor, but the run would learn something else."""
    model = make_model("lora")
    for _, module in model.named_modules():
        if isinstance(module, lora.LoraLinear):
            module.config["default"] = dataclasses.replace(module.config["default"], **{name: value})
    refused(model, config(), saved, rf"was made with default\.{name} = ")


def test_another_strength_of_the_adapter(saved, make_model, config, refused):
    model = make_model("lora")
    lora.set_active(model, {"default": 0.5})
    refused(model, config(), saved, r"was made with default\.strength = 1\.0, this run has 0\.5")


@settings(deadline=None, max_examples=40)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file(part, make_model, config, run, refused, tmp_path_factory):
    whole = tmp_path_factory.getbasetemp() / "whole.safetensors"
    if not whole.exists():
        run(make_model("lora"), config(), whole)
    cut = tmp_path_factory.getbasetemp() / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    refused(make_model("lora"), config(), cut, "is not a whole safetensors file")


def test_no_file_or_another_file(make_model, config, refused, tmp_path):
    refused(make_model(), config(), tmp_path / "nothing", "does not exist")
    adapter = write_tensors(tmp_path / "adapter.safetensors", {"parameters": np.zeros(3)})
    refused(make_model(), config(), adapter, "is not a minilora checkpoint")
    (tmp_path / "text").write_text("To be, or not to be")
    refused(make_model(), config(), tmp_path / "text", "is not a whole safetensors file")


def test_lora_keeps_nothing_of_the_base_in_it(saved, make_model):
    """The buffers are as long as A and B together: this is where LoRA saves memory."""
    trained = sum(p.size for p in make_model("lora").parameters(trainable=True))
    tensors = read_tensors(saved)
    assert [tensors[name].size for name in ("parameters", "exp_avg", "exp_avg_sq")] == [trained] * 3
