"""PEFT's functions and methods behave as documented in PEFT."""

import re

import numpy as np
import pytest

import minilora as ml
from minilora import lora
from minilora.data import ByteTokenizer
from minilora.nn import Llama, Module

IDS = ByteTokenizer().encode("The king and the queen")[None]
ACTING = lora.LoraConfig(r=4, init_lora_weights=False)


@pytest.fixture
def peft_model():
    return ml.get_peft_model(ml.load_model(), ACTING)


def test_it_is_the_model_itself(peft_model):
    """As in PEFT, the base model is adapted in place, and the PeftModel shares its state."""
    model = ml.load_model()
    base = model(IDS).data
    peft_model = ml.get_peft_model(model, ACTING)
    assert isinstance(peft_model, lora.PeftModel)
    assert isinstance(peft_model, Llama)
    assert peft_model(IDS).data.tobytes() == model(IDS).data.tobytes() != base.tobytes()
    lora.set_active(model, None)
    assert peft_model(IDS).data.tobytes() == base.tobytes()
    lora.inject(model, target_modules=["lm_head"], adapter="head", init_lora_weights=False)
    assert peft_model(IDS).data.tobytes() == model(IDS).data.tobytes() != base.tobytes()


def test_it_trains_and_writes(peft_model):
    history = ml.train(peft_model, *ml.load_ids("pastiche:verse:20000"), iters=2, batch=2, context=32, quiet=True)
    assert len(history.losses) == 2
    assert ml.write(peft_model, "The king ", 5) != ml.write(ml.load_model(), "The king ", 5)


def test_the_parameters_are_counted_as_peft_prints_them(peft_model, capsys):
    peft_model.print_trainable_parameters()
    assert capsys.readouterr().out == "trainable params: 18,432 || all params: 2,724,288 || trainable%: 0.6766\n"
    assert peft_model.get_nb_trainable_parameters() == (18_432, 2_724_288)


def test_saving_writes_the_adapters_only(peft_model, tmp_path):
    lora.inject(peft_model, ACTING, adapter="second", rng=1)
    peft_model.save_pretrained(tmp_path)
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert files == [*names, *(f"second/{name}" for name in names)]


@pytest.mark.parametrize("trainable", [False, True])
def test_an_adapter_is_opened_on_a_base(trainable, peft_model, tmp_path):
    peft_model.save_pretrained(tmp_path)
    opened = lora.PeftModel.from_pretrained(ml.load_model(), tmp_path, is_trainable=trainable)
    assert opened(IDS).data.tobytes() == peft_model(IDS).data.tobytes()
    assert bool(opened.parameters(trainable=True)) is trainable


def test_loading_a_second_adapter_does_not_switch(peft_model):
    before = peft_model(IDS).data
    peft_model.load_adapter("shakespeare", "bard")
    assert peft_model.adapters == ["default", "bard"]
    assert peft_model(IDS).data.tobytes() == before.tobytes()
    peft_model.set_adapter("bard")
    assert list(peft_model.active_adapters) == ["bard"]
    assert peft_model(IDS).data.tobytes() != before.tobytes()
    peft_model.delete_adapter("default")
    assert peft_model.adapters == ["bard"]


def test_adapters_are_disabled_merged_and_taken_out(peft_model):
    base, adapted = ml.load_model()(IDS).data, peft_model(IDS).data
    with peft_model.disable_adapter():
        assert peft_model(IDS).data.tobytes() == base.tobytes()
    peft_model.merge_adapter()
    np.testing.assert_allclose(peft_model(IDS).data, adapted, atol=1e-4)
    peft_model.unmerge_adapter()
    assert peft_model(IDS).data.tobytes() == adapted.tobytes()
    merged = peft_model.merge_and_unload()
    assert type(merged) is Llama
    assert merged.adapters == []
    np.testing.assert_allclose(merged(IDS).data, adapted, atol=1e-4)


def test_unloading_gives_the_base(peft_model, tmp_path):
    base = peft_model.unload()
    assert type(base) is Llama
    assert base(IDS).data.tobytes() == ml.load_model()(IDS).data.tobytes()
    base.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


def test_another_module_is_refused():
    with pytest.raises(TypeError, match=re.escape("expected a Llama, got Module; for other modules call lora.inject")):
        ml.get_peft_model(Module(), ACTING)
