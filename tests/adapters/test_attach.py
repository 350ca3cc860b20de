"""Injecting adapters leaves the model's own parameters unchanged, and unloading restores the original model."""

import copy

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.autograd import Tensor
from minilora.nn import Linear, Module, RMSNorm


def test_injecting_changes_no_name_and_no_value(unit_llama, attach):
    model = unit_llama()
    before, tensors = {n: p.data.tobytes() for n, p in model.named_parameters()}, dict(model.named_parameters())
    attach(model, "bard", target_modules="all-linear")
    after = dict(model.named_parameters())
    added = after.keys() - before.keys()
    assert before.keys() < after.keys()
    assert all(after[name] is tensors[name] and after[name].data.tobytes() == before[name] for name in before)
    expected = {name.removesuffix("weight") for name in before if "proj" in name}
    assert added == {f"{path}lora_{part}.bard" for path in expected for part in "AB"}


def test_the_same_seed_draws_the_same_adapter(unit_llama, attach):
    first, second, other = (attach(unit_llama(), seed=s).state_dict() for s in (4, 4, 5))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert all(not np.array_equal(first[name], other[name]) for name in first if "lora" in name)


def test_a_second_adapter_leaves_the_first_alone(unit_llama, attach, ids):
    model = attach(unit_llama(), "a", seed=1)
    alone, state = model(ids).data, {n: a.copy() for n, a in model.state_dict().items()}
    attach(model, "b", seed=2, r=5, target_modules="all-linear")
    assert lora.adapters(model) == ["a", "b"]
    assert lora.active(model) == {"b": 1.0}
    for name, array in state.items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    lora.set_active(model, "a")
    np.testing.assert_array_equal(model(ids).data, alone)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("targets", [["q_proj"], ["lm_head", "up_proj"]], ids=str)
def test_unload_gives_the_model_back(merged, targets, unit_llama, attach, ids):
    model, twin = unit_llama(), unit_llama()
    tensors, before = dict(model.named_parameters()), model(ids).data
    attach(model, target_modules=targets)
    assert not np.array_equal(model(ids).data, before)
    if merged:
        lora.merge(model)
    lora.unload(model)
    assert [(path, type(m)) for path, m in model.named_modules()] == [(p, type(m)) for p, m in twin.named_modules()]
    assert not any(type(module) is not Linear for _, module in model.named_modules() if isinstance(module, Linear))
    after = dict(model.named_parameters())
    assert after.keys() == tensors.keys()
    assert all(after[name] is tensors[name] and after[name].requires_grad for name in tensors)
    assert all(p.data.tobytes() == twin.state_dict()[name].tobytes() for name, p in after.items())
    np.testing.assert_array_equal(model(ids).data, before)
    assert lora.adapters(model) == []


def test_only_the_active_adapter_is_trained(two_adapters, ids):
    model = two_adapters()
    for choice, names in [("a", {"a"}), ("b", {"b"}), ({"a": 0.5, "b": 2.0}, {"a", "b"})]:
        lora.set_active(model, choice)
        for p in model.parameters():
            p.grad = None
        model.loss(ids, ids).backward()
        wants = {name for name, p in model.named_parameters() if p.requires_grad}
        has = {name for name, p in model.named_parameters() if p.grad is not None}
        adapters = {name for name, _ in model.named_parameters() if name.rpartition(".")[2] in names}
        assert wants == has == adapters
        assert all(p.grad.any() for p in model.parameters() if p.requires_grad)


def test_with_no_adapter_acting_nothing_wants_a_gradient(two_adapters):
    model = two_adapters()
    lora.set_active(model, None)
    assert model.parameters(trainable=True) == []


def test_a_deep_copy_trains_apart(two_adapters, ids):
    model = two_adapters()
    twin, before = copy.deepcopy(model), model(ids).data
    np.testing.assert_array_equal(twin(ids).data, before)
    for module in hosts(twin).values():
        for tensor in (*module.lora_A.values(), *module.lora_B.values()):
            tensor.data += 1
    np.testing.assert_array_equal(model(ids).data, before)
    assert not np.array_equal(twin(ids).data, before)


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "ä", "a b"])
def test_an_invalid_adapter_name_is_refused(name, unit_llama, attach, snapshot):
    model = unit_llama()
    before = snapshot(model)
    with pytest.raises(lora.AdapterError, match="expected an adapter name of ASCII letters, digits, - and _, got"):
        attach(model, name)
    assert snapshot(model) == before


def test_a_name_that_is_taken(two_adapters, attach, snapshot):
    model = two_adapters()
    before = snapshot(model)
    with pytest.raises(lora.AdapterError, match="already has an adapter 'a'; choose another name"):
        attach(model, "a", target_modules=["o_proj"])
    assert snapshot(model) == before


def test_a_model_in_training_stays_in_training(unit_llama, attach):
    model, rng = unit_llama(), np.random.default_rng(0)
    model.train(rng)
    attach(model, lora_dropout=0.5)
    assert all(module.rng is rng for _, module in model.named_modules())


def test_an_adapter_can_be_deleted(two_adapters, unit_llama, attach, ids):
    model = two_adapters()
    lora.delete_adapter(model, "b")
    assert lora.adapters(model) == ["a"]
    np.testing.assert_array_equal(model(ids).data, unit_llama()(ids).data)
    lora.set_active(model, "a")
    np.testing.assert_array_equal(model(ids).data, attach(unit_llama(), "x", seed=1)(ids).data)
    lora.delete_adapter(model, "a")
    assert not [m for _, m in model.named_modules() if isinstance(m, lora.AdaptedLinear)]
    with pytest.raises(lora.AdapterError, match="there is no adapter 'a'; the model has none"):
        lora.delete_adapter(model, "a")


class Stack(Module):
    def __init__(self, *layers):
        self.layers = list(layers)
        self.named = {"last": Linear(Tensor(np.eye(3)))}


def test_linears_in_lists_and_dicts_can_be_adapted():
    model = Stack(Linear(Tensor(np.eye(3))), Linear(Tensor(np.eye(3))))
    lora.inject(model, lora.LoraConfig(r=1, target_modules=["1", "last"]), rng=np.random.default_rng(0))
    assert list(hosts(model)) == ["layers.1", "named.last"]


def test_linears_in_a_tuple_are_refused_unchanged():
    model = Stack(Linear(Tensor(np.eye(3), requires_grad=True)))
    model.layers = tuple(model.layers)
    with pytest.raises(lora.AdapterError, match=r"layers\.0 is in a tuple and .* keep the modules in a list"):
        lora.inject(model, lora.LoraConfig(r=1, target_modules="all-linear"), rng=np.random.default_rng(0))
    assert model.layers[0].weight.requires_grad
    assert not hosts(model)


@pytest.mark.parametrize("model", [Linear(Tensor(np.eye(3), requires_grad=True)), RMSNorm(3, 1e-5)])
def test_a_model_without_linears_inside_is_refused_unchanged(model):
    with pytest.raises(lora.AdapterError, match="found no Linear inside this model"):
        lora.inject(model, lora.LoraConfig(target_modules="all-linear"), rng=np.random.default_rng(0))
    assert model.weight.requires_grad
