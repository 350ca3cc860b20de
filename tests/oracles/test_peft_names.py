"""PEFT's method names, here and in PEFT: the same calls print, save and compute the same."""

import pytest

from minilora import lora

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.oracle

OPTIONS = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture
def both(unit_llama, in_transformers):
    """The same model with a PEFT model around it, in minilora and in PEFT."""
    model = unit_llama(seed=3)
    theirs = peft.get_peft_model(in_transformers(model), peft.LoraConfig(**OPTIONS))
    return lora.get_peft_model(model, lora.LoraConfig(**OPTIONS, init_lora_weights=False)), theirs


def test_the_parameters_are_counted_and_printed_alike(both, capsys):
    printed = []
    for model in both:
        model.print_trainable_parameters()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert both[0].get_nb_trainable_parameters() == both[1].get_nb_trainable_parameters()


def test_adapters_are_saved_to_the_same_folders(both, tmp_path):
    ours, theirs = both
    lora.inject(ours, lora.LoraConfig(**OPTIONS), adapter="second")
    theirs.add_adapter("second", peft.LoraConfig(**OPTIONS))
    found = []
    for name, model in zip(("ours", "theirs"), both, strict=True):
        model.save_pretrained(tmp_path / name)
        files = (file.relative_to(tmp_path / name) for file in (tmp_path / name).rglob("*") if file.is_file())
        found.append(sorted(str(file) for file in files if file.name != "README.md"))  # PEFT adds a card
    assert found[0] == found[1]


def test_the_same_calls_compute_the_same(both, unit_llama, in_transformers, draw_ids, their_logits, off_by, tmp_path):
    ours, _ = both
    lora.inject(ours, lora.LoraConfig(**OPTIONS, init_lora_weights=False), adapter="second", rng=1)
    ours.save_pretrained(tmp_path)
    base = unit_llama(seed=3)
    theirs = peft.PeftModel.from_pretrained(in_transformers(base), tmp_path).eval()
    ours, ids = lora.PeftModel.from_pretrained(base, tmp_path), draw_ids(base)
    for model in (ours, theirs):
        model.load_adapter(tmp_path / "second", "second")
    first = ours(ids).data
    assert off_by(first, their_logits(theirs, ids)) < 2e-5  # loading does not switch
    for model in (ours, theirs):
        model.set_adapter("second")
    second = ours(ids).data
    assert off_by(second, their_logits(theirs, ids)) < 2e-5
    assert off_by(second, first) > 0.01
    assert [*ours.active_adapters] == theirs.active_adapters
    merged = [model.merge_and_unload() for model in (ours, theirs)]
    assert off_by(merged[0](ids).data, their_logits(merged[1], ids)) < 2e-5
