"""A checkpoint stores the full state. One that does not match is refused in one line, before anything changes."""

import dataclasses
import json

import numpy as np
import pytest

from minilora import lora
from minilora.files import read_metadata, read_tensors, write_tensors
from minilora.training import AdamW, CheckpointError, History, TrainingConfig, checkpoint
from minilora.training.config import CHANGEABLE_LATER


@pytest.fixture
def saved(make_model, config, run, tmp_path):
    """The checkpoint of a finished LoRA run."""
    path = tmp_path / "checkpoint.safetensors"
    run(make_model("lora"), config(), path)
    return path


@pytest.fixture(scope="session")
def refused(run, bits):
    """refused(model, config, path, words, ...): check that resuming fails with `words` in one line, without changes."""

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
    """Parameters, both moments, the step, the generator and the losses are restored bit for bit, in place.

    The generator's state includes the buffered half of a 64-bit draw, which the next 32-bit draw uses.
    """
    rng, path = np.random.default_rng(8), tmp_path / "checkpoint"
    models = [make_model(), make_model("full", initializer_range=0.1)]
    first, second = (AdamW(model.named_parameters()) for model in models)
    for array in (first.data, first.m, first.v):
        array[...] = rng.standard_normal(first.data.shape)
    rng.integers(0, 100, 3)
    first.steps, first.updates = 41, [41, 3] * (len(first.updates) // 2) + [40] * (len(first.updates) % 2)
    history = History([1.5, 0.1 + 0.2], [(0, 2.5), (2, 1 / 3)])
    checkpoint.save(path, first, rng, history, {"lr": 0.1})
    other_rng, other_history = np.random.default_rng(9), History([9.0], [])
    views = [p.data for p in models[1].parameters()]
    checkpoint.load(path, second, other_rng, other_history, {"lr": 0.1})
    for name in ("data", "m", "v"):
        assert getattr(second, name).tobytes() == getattr(first, name).tobytes(), name
    assert second.steps == 41
    assert second.updates == first.updates
    assert other_history == history
    assert all(p.data is view for p, view in zip(models[1].parameters(), views, strict=True))
    assert other_rng.integers(0, 100, 5).tolist() == rng.integers(0, 100, 5).tolist()


DECISIVE = [field.name for field in dataclasses.fields(TrainingConfig) if field.name not in CHANGEABLE_LATER]


@pytest.mark.parametrize("name", DECISIVE)
def test_other_settings(name, saved, make_model, config, refused):
    value = getattr(config(), name)
    others = {"optimizer": "sgd", "schedule": "linear", "keep": "best"}
    other = config(**{name: others.get(name) or (value + 1 if isinstance(value, int) else value / 2)})
    refused(make_model("lora"), other, saved, f"was saved with {name} = ")


def test_a_checkpoint_from_before_a_setting_existed_has_its_default(saved, make_model, config, run):
    state = json.loads(read_metadata(saved)["minilora_checkpoint"])
    for name in ("optimizer", "schedule"):
        del state["settings"][name]
    write_tensors(saved, read_tensors(saved), {"minilora_checkpoint": json.dumps(state)})
    assert len(run(make_model("lora"), config(), saved, resume=True).losses) == config().iters
    with pytest.raises(CheckpointError, match="was saved with optimizer = 'adamw', but this run has 'sgd'"):
        run(make_model("lora"), config(optimizer="sgd"), saved, resume=True)


TEXTS = {"data": "training text", "validation data": "validation text"}


@pytest.mark.parametrize("changed", TEXTS)
def test_other_data(changed, saved, make_model, config, ids, refused):
    parts = {"data": ids[:300].copy(), "validation data": ids[300:].copy()}
    parts[changed][7] += 1
    train_ids, val_ids = parts.values()
    refused(
        make_model("lora"),
        config(),
        saved,
        f"the {TEXTS[changed]} is not the same as when .* was saved",
        train_ids=train_ids,
        val_ids=val_ids,
    )


def test_another_frozen_base(saved, make_model, config, refused):
    model = make_model("lora")
    weight = model.model.layers[0].mlp.up_proj.weight.data
    weight.view(np.uint32)[0, 0] ^= 1  # the last bit of one weight
    refused(model, config(), saved, "the weights of the base model are not the same as when .* was saved")


def test_other_parameters(saved, make_model, config, refused):
    refused(make_model("full"), config(), saved, "the trainable parameters in .* differ from those of this run")
    model = make_model()
    lora.inject(model, lora.LoraConfig(r=3, target_modules="all-linear"), rng=np.random.default_rng(0))
    refused(model, config(), saved, "the trainable parameters in .* differ from those of this run")


@pytest.mark.parametrize(("name", "value"), [("lora_alpha", 8), ("lora_dropout", 0.5), ("strength", 0.5)])
def test_other_settings_of_the_adapter(name, value, saved, make_model, config, refused):
    """No tensor depends on these settings, but the resumed run would have a different result."""
    model = make_model("lora")
    if name == "strength":
        lora.set_active(model, {"default": value})
    for _, module in model.named_modules():
        if isinstance(module, lora.AdaptedLinear) and name != "strength":
            module.config["default"] = dataclasses.replace(module.config["default"], **{name: value})
    refused(model, config(), saved, rf"was saved with default\.{name} = .*, but this run has {value}")


def test_no_file_or_another_file_or_half_of_one(saved, make_model, config, refused, tmp_path):
    refused(make_model(), config(), tmp_path / "nothing", "does not exist")
    adapter = write_tensors(tmp_path / "adapter.safetensors", {"parameters": np.zeros(3)})
    refused(make_model(), config(), adapter, "is not a minilora checkpoint")
    saved.write_bytes(saved.read_bytes()[:-1])
    refused(make_model("lora"), config(), saved, "is not a valid safetensors file")


def test_lora_keeps_nothing_of_the_base_in_it(saved, make_model):
    """The buffers have as many elements as A and B together, which is where LoRA saves memory."""
    trained = sum(p.size for p in make_model("lora").parameters(trainable=True))
    tensors = read_tensors(saved)
    assert [tensors[name].size for name in ("parameters", "exp_avg", "exp_avg_sq")] == [trained] * 3


def test_a_checkpoint_from_before_updates_were_counted(make_model, tmp_path):
    """Every parameter was updated in every step."""
    path, optimizer = tmp_path / "checkpoint.safetensors", AdamW(make_model().named_parameters())
    optimizer.steps = 7
    checkpoint.save(path, optimizer, np.random.default_rng(0), History(), {})
    metadata = json.loads(read_metadata(path)["minilora_checkpoint"])
    del metadata["updates"]
    write_tensors(path, read_tensors(path), {"minilora_checkpoint": json.dumps(metadata)})
    checkpoint.load(path, optimizer, np.random.default_rng(0), History(), {})
    assert optimizer.updates == [7] * len(optimizer.parameters)
