"""Selecting the active adapters: one, several with strengths, or none, and disabling them temporarily."""

import numpy as np
import pytest

from minilora import lora, no_grad
from minilora.adapters.attach import hosts
from minilora.autograd import Tensor
from minilora.autograd.ops import low_rank
from minilora.nn import Linear, Module


@no_grad()  # with gradients, the matrix products of a single adapter are computed in a different order
def test_only_the_chosen_adapters_act(two_adapters, unit_llama, attach, ids):
    model = two_adapters()
    base = unit_llama()(ids).data
    only_a = attach(unit_llama(), "x", seed=1)(ids).data
    only_b = attach(unit_llama(), "x", seed=2, r=2, target_modules=["q_proj", "up_proj", "down_proj"])(ids).data
    for choice, expected in [("a", only_a), ("b", only_b), (None, base), ({}, base), ({"a": 1}, only_a)]:
        lora.set_active(model, choice)
        np.testing.assert_array_equal(model(ids).data, expected)
    assert not np.array_equal(only_a, base)
    assert not np.array_equal(only_b, base)
    lora.set_active(model, {"a": 1, "b": 0})
    np.testing.assert_array_equal(model(ids).data, only_a)


def test_what_is_active(two_adapters):
    model = two_adapters()
    assert lora.active(model) == {"b": 1.0}
    lora.set_active(model, {"a": 0.7, "b": -2})
    assert lora.active(model) == {"a": 0.7, "b": -2.0}
    lora.set_active(model, None)
    assert lora.active(model) == {}


@pytest.mark.parametrize("choice", ["c", {"a": 1, "c": 2}])
def test_an_unknown_adapter_changes_nothing(choice, two_adapters, snapshot):
    model = two_adapters()
    before = snapshot(model)
    with pytest.raises(lora.AdapterError, match="there is no adapter 'c'; the model has a, b"):
        lora.set_active(model, choice)
    assert snapshot(model) == before


@pytest.mark.parametrize("choice", ["a", {"a": 0.5, "b": -1.0}, None])
def test_disabled_is_the_base_and_then_as_before(choice, two_adapters, unit_llama, ids, snapshot):
    model, base = two_adapters(), unit_llama()(ids).data
    lora.set_active(model, choice)
    before, logits = snapshot(model), model(ids).data
    with lora.disabled(model):
        np.testing.assert_array_equal(model(ids).data, base)
        assert lora.active(model) == {}
    assert snapshot(model) == before
    np.testing.assert_array_equal(model(ids).data, logits)


def test_disabled_ends_with_an_exception_too(two_adapters, snapshot):
    model = two_adapters()
    before = snapshot(model)
    with pytest.raises(KeyError, match="inside"), lora.disabled(model):
        raise KeyError("inside")
    assert snapshot(model) == before


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused(two_adapters, strength):
    model = two_adapters()
    with pytest.raises(lora.AdapterError, match="the strength of 'a' should be a finite number"):
        lora.set_active(model, {"a": strength})
    assert lora.active(model) == {"b": 1.0}


def test_disabled_leaves_alone_what_trains(two_adapters):
    """Frozen tensors of an active adapter, such as A in LoRA-FA, stay frozen."""
    model = two_adapters()
    for module in hosts(model).values():
        if "b" in module.config:
            module.lora_A["b"].requires_grad = False
    before = [name for name, p in model.named_parameters() if p.requires_grad]
    with lora.disabled(model):
        pass
    lora.set_active(model, {"b": 0.5})
    assert [name for name, p in model.named_parameters() if p.requires_grad] == before


@pytest.mark.parametrize(("tokens", "calls"), [(7, 0), (8, 1)])
def test_training_forms_the_update_where_that_takes_fewer_operations(tokens, calls, monkeypatch):
    """With 12 inputs and 20 outputs, both methods cost the same at 12 · 20 / (12 + 20) = 7.5 tokens."""
    holder, rng, called = Module(), np.random.default_rng(0), []
    holder.only = Linear(Tensor(rng.standard_normal((20, 12))))
    lora.inject(holder, lora.LoraConfig(r=2, target_modules=["only"], init_lora_weights=False), rng=rng)
    holder.astype(np.float64)
    right = low_rank.lora_linear
    monkeypatch.setattr(low_rank, "lora_linear", lambda *inputs, **scale: called.append(1) or right(*inputs, **scale))
    x = Tensor(rng.standard_normal((1, tokens, 12)))
    h = holder.only(x)
    assert len(called) == calls
    with no_grad():
        np.testing.assert_allclose(holder.only(x).data, h.data, rtol=1e-12)
    lora.set_active(holder, None)
    base = holder.only(x).data
    assert np.abs(h.data - base).max() > 0.1
    assert len(called) == calls
