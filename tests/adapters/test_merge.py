"""Merging changes what is stored, not what is computed; unmerging restores every bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import lora, no_grad
from minilora.adapters.attach import hosts
from minilora.adapters.host import AdaptedLinear
from minilora.nn import Llama

CHOICES = ["a", "b", {"a": 0.7, "b": 0.3}, {"a": -1.5, "b": 2.0}]


def weights(model):
    return {path: module.weight for path, module in hosts(model).items()}


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@no_grad()  # where gradients are taken, W + ΔW may be formed as it is by merging
def test_merging_changes_no_output(choice, dtype, bound, two_adapters, ids):
    model = two_adapters()
    model.astype(dtype)
    lora.set_active(model, None)
    base = model(ids).data
    lora.set_active(model, choice)
    apart = model(ids).data
    lora.merge(model)
    assert all(module.merged for module in hosts(model).values())
    merged = model(ids).data
    assert merged.dtype == dtype
    assert 0 < np.abs(merged - apart).max() < bound * np.abs(apart).max()
    assert np.abs(apart - base).max() > 0.05 * np.abs(base).max()


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-6), (np.float64, 1e-15)])
def test_a_merged_weight_is_W_plus_the_updates(dtype, bound, two_adapters):
    model = two_adapters()
    model.astype(dtype)
    lora.set_active(model, {"a": 0.7, "b": -2})
    expected = {}
    for path, module in hosts(model).items():
        expected[path] = module.weight.data.astype(np.float64)
        for name, strength in (("a", 0.7), ("b", -2)):
            if name in module.config:
                s, B, A = module.scaling[name], module.lora_B[name].data, module.lora_A[name].data
                expected[path] += strength * s * (B.astype(np.float64) @ A.astype(np.float64))
    lora.merge(model)
    for path, weight in weights(model).items():
        assert weight.dtype == dtype
        assert np.abs(weight.data - expected[path]).max() <= bound * np.abs(expected[path]).max()


def test_merging_twice_is_merging_once(two_adapters):
    model = two_adapters()
    lora.merge(model)
    once = {path: weight.data.tobytes() for path, weight in weights(model).items()}
    lora.merge(model)
    assert {path: weight.data.tobytes() for path, weight in weights(model).items()} == once


def test_with_nothing_active_merging_keeps_the_base(two_adapters, ids):
    model = two_adapters()
    lora.set_active(model, None)
    base = model(ids).data
    lora.merge(model)
    np.testing.assert_array_equal(model(ids).data, base)


steps = st.one_of(st.sampled_from([*CHOICES, None]), st.sampled_from(["merge", "unmerge"]))


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=12))
def test_after_any_sequence_unmerging_restores_every_bit(two_adapters, ids, sequence):
    model, twin = two_adapters(), two_adapters()
    before, merged, acting = weights(model), False, {"b": 1.0}
    for step in sequence:
        if step == "merge":
            lora.merge(model)
            merged = True
        elif step == "unmerge":
            lora.unmerge(model)
            merged = False
        elif not merged:
            lora.set_active(model, step)
            acting = lora.active(model)
    lora.set_active(twin, acting)
    expected, found = twin(ids).data, model(ids).data
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    lora.unmerge(model)
    after = weights(model)
    assert all(after[path] is before[path] for path in before)
    assert all(after[path].data.tobytes() == weight.data.tobytes() for path, weight in weights(twin).items())
    np.testing.assert_array_equal(model(ids).data, expected)


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda model, attach, folder: attach(model, "c"),
        lambda model, attach, folder: lora.load_adapter(model, folder, "c"),
        lambda model, attach, folder: lora.set_active(model, "a"),
        lambda model, attach, folder: lora.set_active(model, None),
    ],
    ids=["inject", "load_adapter", "set_active", "set_active None"],
)
def test_what_cannot_be_done_while_merged(forbidden, two_adapters, attach, tmp_path, snapshot):
    model = two_adapters()
    lora.save_adapter(model, tmp_path, "a")
    lora.merge(model)
    before = snapshot(model)
    with pytest.raises(lora.AdapterError, match=r"while adapters are merged .*; call lora\.unmerge\(model\) first"):
        forbidden(model, attach, tmp_path)
    assert snapshot(model) == before


def test_an_adapter_can_be_saved_while_merged(two_adapters, tmp_path):
    model = two_adapters()
    lora.save_adapter(model, tmp_path / "apart", "b")
    lora.merge(model)
    lora.save_adapter(model, tmp_path / "merged", "b")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()


def test_a_model_without_adapters(unit_llama):
    model = unit_llama()
    with pytest.raises(lora.AdapterError, match="nothing to merge: the model has no adapters"):
        lora.merge(model)
    lora.unmerge(model)


def test_merge_and_unload(two_adapters, unit_llama, ids):
    model = two_adapters()
    lora.set_active(model, {"a": 0.7, "b": 0.3})
    apart = model(ids).data
    lora.merge_and_unload(model)
    assert model.state_dict().keys() == unit_llama().state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    assert not hosts(model).items()
    assert 0 < np.abs(model(ids).data - apart).max() < 1e-5 * np.abs(apart).max()
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("merged", [False, True])
@no_grad()
def test_merge_difference_measures_on_a_copy(merged, two_adapters, ids, snapshot):
    model = two_adapters()
    apart = model(ids).data
    lora.merge(model)
    expected = np.abs(model(ids).data - apart).max()
    if not merged:
        lora.unmerge(model)
    before = snapshot(model)
    assert lora.merge_difference(model, ids) == expected > 0
    assert 0 < lora.merge_difference(model, ids, dtype=np.float64) < 1e-12 * np.abs(apart).max()
    assert snapshot(model) == before


def test_disabled_is_the_base_while_merged_too(two_adapters, unit_llama, ids):
    model = two_adapters()
    lora.merge(model)
    merged = model(ids).data
    with lora.disabled(model):
        np.testing.assert_array_equal(model(ids).data, unit_llama()(ids).data)
    np.testing.assert_array_equal(model(ids).data, merged)


def test_an_error_inside_disabled_is_the_one_that_is_seen(two_adapters, ids):
    model = two_adapters()
    before = model(ids).data

    def merge_and_fail():
        with lora.disabled(model):
            lora.merge(model)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        merge_and_fail()
    np.testing.assert_array_equal(model(ids).data, before)


@pytest.mark.parametrize("change", [lambda m: m.astype(np.float64), lambda m: m.load_state_dict(m.state_dict())])
def test_merged_parameters_are_not_replaced(change, two_adapters):
    model = two_adapters()
    lora.merge(model)
    with pytest.raises(ValueError, match=r"call lora\.unmerge\(model\) first"):
        change(model)


def test_the_difference_is_measured_without_dropout(unit_llama, attach, ids):
    model = attach(unit_llama(), "a", lora_dropout=0.5)
    model.train(np.random.default_rng(0))
    assert lora.merge_difference(model, ids, np.float64) < 1e-10


def test_the_difference_is_measured_without_recording(two_adapters, ids, monkeypatch):
    model, logits, forward = two_adapters(), [], Llama.forward

    def recorded(*inputs, **options):
        logits.append(forward(*inputs, **options))
        return logits[-1]

    monkeypatch.setattr(Llama, "forward", recorded)
    model(ids)
    lora.merge_difference(model, ids)
    assert [bool(tensor.edges) for tensor in logits] == [True, False, False]


@pytest.mark.parametrize("merged", [False, True])
def test_merge_check_says_what_merging_changed_and_leaves_the_model_alone(merged, two_adapters, ids, snapshot):
    model = two_adapters()
    if merged:
        lora.merge(model)
    before = snapshot(model)
    check = lora.merge_check(model, ids)
    assert check.single == lora.merge_difference(model, ids)
    assert check.double == lora.merge_difference(model, ids, np.float64) < check.single
    assert check.restored is True
    assert snapshot(model) == before


def test_merge_check_sees_when_a_weight_does_not_come_back(two_adapters, ids, monkeypatch):
    def spoil(self):
        if self.merged:
            self.base.weight.data *= 1 + 1e-6
            self._merged = None

    monkeypatch.setattr(AdaptedLinear, "unmerge", spoil)
    assert lora.merge_check(two_adapters(), ids).restored is False


def test_the_state_of_a_merged_model_is_that_of_the_model(two_adapters, unit_llama):
    """W, A and B, not W + ΔW beside A and B: loaded into another model, the update would count twice."""
    model = two_adapters()
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    lora.merge(model)
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before
