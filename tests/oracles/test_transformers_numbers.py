"""The same weights give the same logits and gradients as transformers' LlamaForCausalLM."""

import numpy as np
import pytest

from minilora.autograd import gradients

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

SHAPES = {
    "a key head for each query head": {"num_key_value_heads": 4},
    "two query heads to a key head": {"num_key_value_heads": 2, "rope_theta": 500000.0},
    "one key head for all": {"num_key_value_heads": 1, "rope_theta": 100.0},
    "head_dim apart from the width": {"num_key_value_heads": 2, "head_dim": 10},
    "narrow heads, three layers": {"num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 3},
    "eps that can be felt": {"num_key_value_heads": 2, "rms_norm_eps": 0.3},
    "eps that cannot": {"num_key_value_heads": 2, "rms_norm_eps": 1e-8},
    "output head of its own": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "all at once": {
        "num_key_value_heads": 1,
        "head_dim": 14,
        "rope_theta": 700.0,
        "rms_norm_eps": 0.1,
        "tie_word_embeddings": False,
    },
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@shapes
@pytest.mark.parametrize("time", [1, 11, 70], ids="T={}".format)
def test_logits(shape, time, unit_llama, in_transformers, draw_ids, their_logits, off_by):
    model = unit_llama(**shape)
    ids = draw_ids(model, time=time)
    assert off_by(model(ids).data, their_logits(in_transformers(model), ids)) < 2e-5


@shapes
def test_the_gradient_of_every_parameter(shape, unit_llama, in_transformers, draw_ids, gradient_off_by):
    model = unit_llama(seed=3, **shape)
    theirs, ids = in_transformers(model), draw_ids(model, time=19)
    cotangent = np.random.default_rng(4).standard_normal((*ids.shape, model.config.vocab_size)).astype(np.float32)
    theirs(input_ids=torch.tensor(ids)).logits.backward(torch.tensor(cotangent))
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    names, parameters = zip(*model.named_parameters(), strict=True)
    assert set(names) == expected.keys()
    for name, g in zip(names, gradients(model(ids), parameters, cotangent), strict=True):
        assert gradient_off_by(g, expected[name]) < 2e-4, name


def test_the_loss_and_its_gradient(unit_llama, in_transformers, draw_ids, gradient_off_by):
    """transformers shifts the labels itself, so its loss on a text equals ours on the text and its next tokens."""
    model = unit_llama(seed=5, num_key_value_heads=2)
    theirs, text = in_transformers(model), draw_ids(model, time=20)
    loss = model.loss(text[:, :-1], text[:, 1:])
    their_loss = theirs(input_ids=torch.tensor(text), labels=torch.tensor(text)).loss
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-6)
    table = model.model.embed_tokens.weight
    expected = theirs.model.embed_tokens.weight.grad.numpy()
    assert gradient_off_by(gradients(loss, [table])[0], expected) < 2e-4


@shapes
def test_in_float64_they_agree_to_ten_digits(
    shape, unit_llama, in_transformers, draw_ids, their_logits, off_by, monkeypatch
):
    """transformers always computes norms and angles in float32, so the test replaces them with float64 versions."""
    model = unit_llama(seed=6, **shape)
    theirs, ids = in_transformers(model).double(), draw_ids(model, time=70)
    model.astype(np.float64)
    llama = transformers.models.llama.modeling_llama
    monkeypatch.setattr(llama.LlamaRMSNorm, "forward", _float64_norm)
    monkeypatch.setattr(llama.LlamaRotaryEmbedding, "forward", _float64_angles)
    logits = model(ids).data
    assert logits.dtype == np.float64
    assert off_by(logits, their_logits(theirs, ids)) < 1e-10


def _float64_norm(self, x):
    return torch.nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon)


def _float64_angles(self, x, position_ids):
    size, theta = self.config.head_dim, self.config.rope_parameters["rope_theta"]
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    angles = position_ids[..., None].double() / theta**exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()
