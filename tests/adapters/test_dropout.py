"""Dropout acts while training only, and on the adapter's input only."""

import numpy as np
import pytest

from minilora import Tensor, gradients, lora
from minilora.adapters.attach import hosts

P = 0.25


@pytest.fixture
def transparent(one_linear):
    """A layer whose update is its own input: A and B are identities (12 of 24 inputs), s = 1; and W is zero."""
    layer = one_linear(r=12, lora_alpha=12, lora_dropout=P)
    layer.weight.data[...] = 0
    layer.lora_A["default"].data[...] = np.eye(12, 24)
    layer.lora_B["default"].data[...] = np.eye(12)
    return layer


def test_kept_inputs_are_scaled_and_the_others_zero(transparent):
    x = 1 + np.random.default_rng(0).random((50, 40, 24))
    transparent.rng = np.random.default_rng(1)
    out = transparent(Tensor(x)).data
    kept = out != 0
    np.testing.assert_allclose(out[kept], (x[..., :12] / (1 - P))[kept], rtol=1e-12)
    assert abs(kept.mean() - (1 - P)) < 5 * (P * (1 - P) / kept.size) ** 0.5
    again = transparent(Tensor(x)).data
    assert ((again != 0) != kept).any()  # each pass draws anew


def test_the_frozen_path_is_spared(transparent):
    x = 1 + np.random.default_rng(0).random((50, 24))
    transparent.weight.data[...] = np.eye(12, 24)
    transparent.rng = np.random.default_rng(1)
    out = transparent(Tensor(x)).data / x[:, :12]
    dropped = out < 1.5
    np.testing.assert_allclose(out[dropped], 1, rtol=1e-12)
    np.testing.assert_allclose(out[~dropped], 1 + 1 / (1 - P), rtol=1e-12)
    assert dropped.any()
    assert not dropped.all()


def test_inputs_are_dropped_one_by_one_and_not_what_A_makes_of_them(transparent):
    """With every entry of A and x at one, A sees the number of inputs that were kept."""
    transparent.lora_A["default"].data[...] = 1
    transparent.rng = np.random.default_rng(1)
    kept = transparent(Tensor(np.ones((200, 24)))).data[:, 0] * (1 - P)
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-9)
    assert abs(kept.mean() - 24 * (1 - P)) < 5 * (24 * P * (1 - P) / 200) ** 0.5
    assert 1 < kept.std() < 4  # a binomial's is 2.1; dropping the sum itself would give 10


def test_gradients_flow_through_what_was_kept(transparent):
    x = Tensor(1 + np.random.default_rng(0).random((50, 24)), requires_grad=True)
    transparent.rng = np.random.default_rng(1)
    out = transparent(x)
    (dx,) = gradients(out, [x], np.ones((50, 12)))
    np.testing.assert_allclose(dx[:, :12], np.where(out.data != 0, 1 / (1 - P), 0))


def test_in_evaluation_it_does_nothing(unit_llama, attach, ids):
    plain, model = attach(unit_llama()), attach(unit_llama(), lora_dropout=0.5)
    expected = plain(ids).data
    np.testing.assert_array_equal(model(ids).data, expected)
    model.train(np.random.default_rng(0))
    noisy = model(ids).data
    assert not np.allclose(noisy, expected)
    model.train(np.random.default_rng(0))
    np.testing.assert_array_equal(model(ids).data, noisy)  # the same generator drops the same
    model.eval()
    np.testing.assert_array_equal(model(ids).data, expected)


def test_without_dropout_training_draws_nothing(unit_llama, attach, ids):
    model, rng = attach(unit_llama()), np.random.default_rng(0)
    expected = model(ids).data
    model.train(rng)
    np.testing.assert_array_equal(model(ids).data, expected)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_each_adapter_has_its_own_rate(unit_llama, attach, ids):
    model = attach(unit_llama(), "calm", seed=1)
    attach(model, "noisy", seed=2, lora_dropout=0.9)
    expected = {}
    for name in ("calm", "noisy"):
        lora.set_active(model, name)
        expected[name] = model(ids).data
    model.train(np.random.default_rng(0))
    assert not np.allclose(model(ids).data, expected["noisy"])
    lora.set_active(model, "calm")
    np.testing.assert_array_equal(model(ids).data, expected["calm"])


def test_merged_there_is_nothing_to_drop(unit_llama, attach, ids):
    model = attach(unit_llama(), lora_dropout=0.5)
    lora.merge(model)
    expected = model(ids).data
    model.train(np.random.default_rng(0))
    np.testing.assert_array_equal(model(ids).data, expected)
    assert all(module.merged for module in hosts(model).values())
