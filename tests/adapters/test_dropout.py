"""Dropout applies only during training, and only to the adapter's input."""

import numpy as np

from minilora import lora
from minilora.adapters.attach import hosts


def test_in_evaluation_it_does_nothing(unit_llama, attach, ids):
    plain, model = attach(unit_llama()), attach(unit_llama(), lora_dropout=0.5)
    expected = plain(ids).data
    np.testing.assert_array_equal(model(ids).data, expected)
    model.train(np.random.default_rng(0))
    noisy = model(ids).data
    assert not np.allclose(noisy, expected)
    model.train(np.random.default_rng(0))
    np.testing.assert_array_equal(model(ids).data, noisy)  # a generator in the same state drops the same entries
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
