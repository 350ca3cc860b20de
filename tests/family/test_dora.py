"""DoRA: identity at initialization, the gradient with ‖V‖ held constant, zero rows. Its laws are in `laws/dora.py`."""

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.autograd import Tensor, gradcheck
from minilora.family import dora
from minilora.family.dora import DoraConfig, DoraUpdate
from minilora.lora.facts import loaders
from minilora.nn import Linear


def test_a_fresh_one_is_the_identity_bit_for_bit(unit_llama, ids):
    model, base = unit_llama(), unit_llama()(ids).data
    lora.inject(model, DoraConfig(target_modules="all-linear"), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(model(ids).data, base)
    assert len(hosts(model)) == 21
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("held", "agrees"), [(True, True), (False, False)])
def test_the_gradient_is_the_slope_with_the_norms_held(held, agrees, monkeypatch):
    """It is not the derivative of the full formula: gradcheck fails if `stop_gradient` is replaced by the identity."""
    if not held:
        monkeypatch.setattr(dora, "stop_gradient", lambda value: value)
    rng = np.random.default_rng(0)
    W = Linear(Tensor(rng.standard_normal((5, 4))))

    def layer(x, A, B, m):
        return DoraUpdate({"lora_A": A, "lora_B": B, "lora_magnitude_vector": m}, 1.5).apply(x, None, W)

    inputs = [rng.standard_normal(shape) for shape in ((3, 4), (2, 4), (5, 2), (5,))]
    assert (gradcheck(layer, inputs, rng) < 1e-7) == agrees


def test_a_row_of_zeros_is_not_divided_by(unit_llama, ids):
    model = unit_llama()
    model.model.layers[0].mlp.up_proj.weight.data[3] = 0
    before = model(ids).data
    lora.inject(model, DoraConfig(target_modules=["up_proj"]), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(model(ids).data, before)
    model(ids).mean().backward()
    assert all(np.isfinite(p.grad).all() for p in model.parameters(trainable=True))


def test_strength_and_per_row_choice_beside_a_lora(unit_llama, attach, ids):
    model = attach(unit_llama(), "plain")
    lora.inject(model, DoraConfig(r=2, init_lora_weights=False), "dora", rng=np.random.default_rng(1))
    model.astype(np.float64)
    choices = [{"dora": 0.5, "plain": -1}, "dora"]
    rows = model(ids, adapters=choices).data
    for i, choice in enumerate(choices):
        lora.set_active(model, choice)
        assert np.abs(rows[i] - model(ids).data[i]).max() < 1e-12 * np.abs(rows).max()


def test_it_is_known_by_its_file(unit_llama, ids, tmp_path):
    model, other = unit_llama(), unit_llama()
    lora.inject(model, DoraConfig(init_lora_weights=False, rank_pattern={"v_proj": 3}), rng=np.random.default_rng(1))
    lora.save_adapter(model, tmp_path)
    lora.load_adapter(other, tmp_path)
    assert hosts(other)["model.layers.0.self_attn.v_proj"].config["default"] == DoraConfig(
        init_lora_weights=False, rank_pattern={"v_proj": 3}
    )
    np.testing.assert_array_equal(other(ids).data, model(ids).data)


def test_programs_that_know_lora_alone_do_not_load_it():
    assert [loader.compatible for loader in loaders(DoraConfig(), ["q_proj"])] == [True, False, False]
