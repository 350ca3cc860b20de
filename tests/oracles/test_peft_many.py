"""Several adapters against PEFT: batches with a different adapter per row, and mixtures as new adapters."""

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.oracle

QV = ["q_proj", "v_proj"]
ADAPTERS = {
    "one": {"r": 4, "lora_alpha": 8, "target_modules": QV},
    "two": {"r": 2, "lora_alpha": 7, "target_modules": ["q_proj", "up_proj", "down_proj"]},
    "three": {"r": 6, "lora_alpha": 3, "target_modules": QV, "rank_pattern": {"0.self_attn.q_proj": 9}},
}
EQUAL = {
    "one": {"r": 4, "lora_alpha": 8, "target_modules": QV},
    "two": {"r": 4, "lora_alpha": 3, "target_modules": QV},
    "three": {"r": 4, "lora_alpha": 5, "target_modules": QV},
}


@pytest.fixture
def both(tmp_path, unit_llama, in_transformers):
    """both(adapters): the same model with the same adapters, here and in PEFT."""

    def make(adapters):
        model = unit_llama(seed=11, num_key_value_heads=2)
        torch.manual_seed(0)
        configs = {
            name: peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options)
            for name, options in adapters.items()
        }
        theirs = peft.get_peft_model(in_transformers(model), configs["one"], adapter_name="one").eval()
        for name in ("two", "three"):
            theirs.add_adapter(name, configs[name])
        theirs.save_pretrained(tmp_path)
        for name in adapters:
            lora.load_adapter(model, tmp_path / name, name)
        return model, theirs

    return make


def our_updates(model, adapter):
    return {path: m.delta(adapter) for path, m in hosts(model).items() if adapter in m.config}


def their_updates(theirs, adapter):
    with torch.no_grad():
        return {
            path.removeprefix("base_model.model."): module.get_delta_weight(adapter).numpy()
            for path, module in theirs.named_modules()
            if adapter in getattr(module, "lora_A", {})
        }


@pytest.mark.parametrize(
    "rows",
    [
        ["one", None, "two", "three", "one", None],
        ["two", "two", None, None, None, "three"],
        ["three", "one", "three", "one", "two", "two"],
    ],
    ids=str,
)
def test_a_mixed_batch(rows, both, draw_ids, off_by):
    model, theirs = both(ADAPTERS)
    ids = draw_ids(model, batch=6)
    names = ["__base__" if row is None else row for row in rows]  # PEFT's name for no adapter
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ids), adapter_names=names).logits.numpy()
    found = model(ids, adapters=rows).data
    assert off_by(found, expected) < 2e-5
    moved = model(ids, adapters=rows[1:] + rows[:1]).data
    assert off_by(moved, expected) > 0.01


@pytest.mark.parametrize("how", ["cat", "svd", "linear"])
@pytest.mark.parametrize("weights", [[0.5, 0.5, 0.5], [0.7, 0.3, 1.5], [1.0, -0.6, -2.0]], ids=str)
def test_a_mixture(how, weights, both, off_by):
    """Equal, unequal and negative weights; for cat and svd also different ranks and modules."""
    model, theirs = both(EQUAL if how == "linear" else ADAPTERS)
    names = ["one", "two", "three"]
    lora.mix(model, dict(zip(names, weights, strict=True)), "mixed", how, 3 if how == "svd" else None)
    theirs.add_weighted_adapter(names, weights, "mixed", combination_type=how, svd_rank=3)
    found, expected = our_updates(model, "mixed"), their_updates(theirs, "mixed")
    assert found.keys() == expected.keys()
    for path, delta in expected.items():
        assert off_by(found[path], delta) < 1e-5, path
        assert np.abs(delta).max() > 0.05, "the mixture is too small for a meaningful comparison"


@pytest.mark.parametrize("how", ["cat", "svd"])
def test_a_saved_mixture_opens_there(how, both, tmp_path, unit_llama, in_transformers, draw_ids, their_logits, off_by):
    """The rank differs between modules, and each module is named by its full path."""
    model, _ = both(ADAPTERS)
    ids = draw_ids(model)
    made = lora.mix(model, {"one": 0.7, "two": -1.2, "three": 0.4}, "mixed", how)
    assert len(set(made.rank.values())) > 2
    lora.save_adapter(model, tmp_path / "mixed", "mixed")
    base = unit_llama(seed=11, num_key_value_heads=2)
    theirs = peft.PeftModel.from_pretrained(in_transformers(base), tmp_path / "mixed").eval()
    expected = their_logits(theirs, ids)
    assert off_by(model(ids).data, expected) < 2e-5
    assert off_by(base(ids).data, expected) > 0.01


def test_a_saved_mixture_on_modules_that_only_whole_paths_tell_apart(
    tmp_path, unit_llama, in_transformers, draw_ids, their_logits, off_by
):
    model = unit_llama(seed=12)
    base, ids = in_transformers(model), draw_ids(model)
    for layer, name, target in ((0, "low", "q_proj"), (1, "high", "up_proj")):
        config = lora.LoraConfig(
            r=2 + layer, target_modules=[target], layers_to_transform=layer, init_lora_weights=False
        )
        lora.inject(model, config, name, rng=np.random.default_rng(layer))
    lora.mix(model, {"low": 2, "high": 1})
    lora.save_adapter(model, tmp_path, "mixed")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert their_updates(theirs, "default").keys() == our_updates(model, "mixed").keys()
    assert off_by(model(ids).data, their_logits(theirs, ids)) < 2e-5
