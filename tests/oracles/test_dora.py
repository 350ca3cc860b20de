"""DoRA against PEFT: files in both directions, logits, gradients, merged weights, parameter counts, dropout."""

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.autograd import Tensor, gradients, ops
from minilora.family.dora import DoraConfig

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.oracle

ADAPTERS = {
    "attention": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "rsLoRA": {"r": 8, "lora_alpha": 4, "target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["o_proj", "gate_proj", "down_proj"],
        "rank_pattern": {"down_proj": 6, r"layers\.0\.self_attn.*": 1},
        "alpha_pattern": {"1.mlp.down_proj": 3},
    },
    "output head, dropout": {"r": 2, "lora_alpha": 5, "target_modules": ["lm_head", "q_proj"], "lora_dropout": 0.3},
}
options = pytest.mark.parametrize("options", ADAPTERS.values(), ids=ADAPTERS.keys())


@pytest.fixture
def both(options, tmp_path, unit_llama, peft_adapted):
    """The same adapted model here and in PEFT, with magnitudes that differ from the norms of the rows."""
    model = unit_llama(seed=8, num_key_value_heads=2, tie_word_embeddings=False)
    theirs = peft_adapted(model, use_dora=True, **options)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "magnitude" in name:
                p *= 1 + 0.3 * torch.randn(p.shape)
    theirs.save_pretrained(tmp_path)
    lora.load_adapter(model, tmp_path, "theirs")
    return model, theirs


@options
def test_an_adapter_from_there_acts_here_and_trains_alike(both, draw_ids, their_logits, off_by, gradient_off_by):
    model, theirs = both
    ids = draw_ids(model, time=19)
    assert off_by(model(ids).data, their_logits(theirs, ids)) < 2e-5
    with lora.disabled(model):
        assert off_by(model(ids).data, their_logits(theirs, ids)) > 0.01
    cotangent = np.random.default_rng(4).standard_normal((*ids.shape, model.config.vocab_size)).astype(np.float32)
    theirs(input_ids=torch.tensor(ids)).logits.backward(torch.tensor(cotangent))
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    named = {name: f"base_model.model.{name.replace('.theirs', '.default')}.weight" for name in names}
    assert set(named.values()) == expected.keys()
    for name, g in zip(names, gradients(model(ids), parameters, cotangent), strict=True):
        assert gradient_off_by(g, expected[named[name]]) < 2e-4, name


@options
def test_merged_weights_and_counts(both, off_by):
    model, theirs = both
    report = lora.report(model)
    assert (report.trainable, report.total) == theirs.get_nb_trainable_parameters()
    lora.merge_and_unload(model)
    expected = {name: p.detach().numpy() for name, p in theirs.merge_and_unload().named_parameters()}
    for name, array in model.state_dict().items():
        assert off_by(array, expected[name]) < 2e-6, name


@options
def test_an_adapter_from_here_acts_there_and_comes_back(
    options, tmp_path, unit_llama, in_transformers, draw_ids, their_logits, off_by
):
    model, again = (unit_llama(seed=2, tie_word_embeddings=False) for _ in range(2))
    theirs, rng = in_transformers(model), np.random.default_rng(0)
    lora.inject(model, DoraConfig(**options, init_lora_weights=False), "ours", rng=rng)
    for host in hosts(model).values():
        host.lora_magnitude_vector["ours"].data *= rng.uniform(0.5, 1.5, host.out_features).astype(np.float32)
    lora.save_adapter(model, tmp_path / "ours", "ours")
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    ids = draw_ids(model)
    assert off_by(model(ids).data, their_logits(adapted, ids)) < 2e-5
    adapted.save_pretrained(tmp_path / "theirs")
    lora.load_adapter(again, tmp_path / "theirs", "ours")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array, err_msg=name)


def test_dropout_is_on_the_inputs_of_both_terms(unit_llama, peft_adapted, tmp_path, monkeypatch, off_by):
    """y = W x + (m/‖V‖ - 1) W drop(x) + (m/‖V‖) s B A drop(x), with the same mask here and in PEFT."""
    model = unit_llama(seed=8, tie_word_embeddings=False)
    theirs = peft_adapted(model, use_dora=True, r=4, target_modules=["down_proj"], lora_dropout=0.5)
    theirs.save_pretrained(tmp_path)
    lora.load_adapter(model, tmp_path)
    rng = np.random.default_rng(0)
    x, mask = (rng.standard_normal((2, 5, 36)).astype(np.float32) for _ in range(2))
    path = "model.layers.1.mlp.down_proj"
    there, here = theirs.get_submodule(f"base_model.model.{path}"), hosts(model)[path]
    monkeypatch.setattr(there.lora_dropout["default"], "forward", lambda x: x * torch.tensor(mask))
    monkeypatch.setattr(ops, "dropout", lambda x, probability, rng: x * mask)
    theirs.train()
    model.train(rng)
    expected = there(torch.tensor(x)).detach().numpy()
    assert off_by(here(Tensor(x)).data, expected) < 1e-5
    model.eval()
    assert off_by(here(Tensor(x)).data, expected) > 0.01
