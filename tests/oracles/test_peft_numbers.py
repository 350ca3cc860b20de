"""Gradients, merged weights, parameter counts, mixtures and initial distributions agree with PEFT."""

import numpy as np
import pytest

from minilora import lora
from minilora.autograd import gradients

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.oracle

ADAPTERS = {
    "attention": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "everything": {"r": 8, "lora_alpha": 4, "target_modules": "all-linear", "use_rslora": True},
    "head and MLP": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["lm_head", "down_proj"],
        "rank_pattern": {"lm_head": 6},
        "alpha_pattern": {"0.mlp.down_proj": 3},
    },
}
options = pytest.mark.parametrize("options", ADAPTERS.values(), ids=ADAPTERS.keys())


@pytest.fixture
def both(options, tmp_path, unit_llama, peft_adapted):
    """The same adapted model here and in PEFT."""
    model = unit_llama(seed=8, num_key_value_heads=2, tie_word_embeddings=False)
    theirs = peft_adapted(model, **options)
    theirs.save_pretrained(tmp_path)
    lora.load_adapter(model, tmp_path)
    return model, theirs


def their_name(name):
    """model.layers.0.self_attn.q_proj.lora_A.default -> what PEFT calls the same parameter."""
    return f"base_model.model.{name}.weight"


@options
def test_gradients(both, draw_ids, gradient_off_by):
    model, theirs = both
    ids = draw_ids(model, time=19)
    cotangent = np.random.default_rng(4).standard_normal((*ids.shape, model.config.vocab_size)).astype(np.float32)
    theirs(input_ids=torch.tensor(ids)).logits.backward(torch.tensor(cotangent))
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    assert {their_name(name) for name in names} == expected.keys()
    for name, g in zip(names, gradients(model(ids), parameters, cotangent), strict=True):
        assert gradient_off_by(g, expected[their_name(name)]) < 2e-4, name


@options
def test_merged_weights(both, draw_ids, their_logits, off_by):
    model, theirs = both
    base = {name: array.copy() for name, array in model.state_dict().items()}
    lora.merge_and_unload(model)
    merged = theirs.merge_and_unload()
    expected = {name: p.detach().numpy() for name, p in merged.named_parameters()}
    assert model.state_dict().keys() == expected.keys()
    changed = 0
    for name, array in model.state_dict().items():
        assert off_by(array, expected[name]) < 2e-6, name
        changed += not np.array_equal(array, base[name])
    assert changed == sum("lora_A" in name for name in base)
    ids = draw_ids(model)
    assert off_by(model(ids).data, their_logits(merged, ids)) < 2e-5


@options
def test_parameter_counts(both):
    model, theirs = both
    report = lora.report(model)
    assert (report.trainable, report.total) == theirs.get_nb_trainable_parameters()


def test_parameter_counts_with_a_tied_head(unit_llama, peft_adapted):
    model = unit_llama(tie_word_embeddings=True)
    theirs = peft_adapted(model, **ADAPTERS["attention"])
    lora.inject(model, lora.LoraConfig(**ADAPTERS["attention"]), rng=np.random.default_rng(0))
    report = lora.report(model)
    assert (report.trainable, report.total) == theirs.get_nb_trainable_parameters()


@pytest.mark.parametrize("strengths", [{"one": 0.7, "two": 0.3}, {"one": 1.5, "two": 0.01}])
def test_strengths_are_pefts_concatenated_mixture(
    strengths, tmp_path, unit_llama, peft_adapted, draw_ids, their_logits, off_by
):
    model = unit_llama(seed=9)
    theirs = peft_adapted(model, seed=1, **ADAPTERS["attention"])
    other = peft.LoraConfig(r=2, lora_alpha=7, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    theirs.add_adapter("two", other)
    theirs.save_pretrained(tmp_path)
    lora.load_adapter(model, tmp_path, "one")
    lora.load_adapter(model, tmp_path / "two", "two")
    theirs.add_weighted_adapter(["default", "two"], list(strengths.values()), "mix", combination_type="cat")
    theirs.set_adapter("mix")
    ids = draw_ids(model)
    lora.set_active(model, strengths)
    expected = their_logits(theirs, ids)
    assert off_by(model(ids).data, expected) < 2e-5
    lora.merge(model)
    assert off_by(model(ids).data, expected) < 2e-5
    lora.unmerge(model)
    lora.set_active(model, "one")
    assert off_by(model(ids).data, expected) > 0.01


@pytest.mark.parametrize("init", [True, False, "gaussian"])
def test_fresh_adapters_have_the_same_distribution(init, unit_llama, peft_adapted):
    """The standard deviation and the bounds of A and B, over several thousand values each."""
    options = {"r": 32, "target_modules": ["o_proj", "down_proj"], "init_lora_weights": init}
    model = unit_llama(hidden_size=48, num_attention_heads=3, head_dim=32, intermediate_size=200)
    theirs = peft_adapted(model, **options)
    lora.inject(model, lora.LoraConfig(**options), rng=np.random.default_rng(0))
    expected = dict(theirs.named_parameters())
    for name, p in model.named_parameters():
        if "lora" in name:
            ours, their = p.data, expected[their_name(name)].detach().numpy()
            assert ours.shape == their.shape
            if "lora_B" in name and init is not False:
                assert not ours.any()
                assert not their.any()
                continue
            assert ours.std() == pytest.approx(their.std(), rel=0.1), name
            assert abs(ours.mean()) < 5 * ours.std() / ours.size**0.5
            if init != "gaussian":
                bound = p.shape[1] ** -0.5
                assert 0.98 * bound < np.abs(ours).max() <= bound
                assert 0.98 * bound < np.abs(their).max() <= bound * (1 + 1e-6)
