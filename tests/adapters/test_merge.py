"""Merging changes the stored weights but not the output, and unmerging restores the weights bit for bit."""

import numpy as np
import pytest

from minilora import lora, no_grad
from minilora.adapters.attach import hosts
from minilora.adapters.host import AdaptedLinear
from minilora.nn import Llama

CHOICES = ["a", "b", {"a": 0.7, "b": 0.3}, {"a": -1.5, "b": 2.0}]


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


def test_after_disabled_the_weight_is_merged_anew(two_adapters, ids):
    """The weight is recomputed from the current parameters: a new dtype, and an adapter deleted inside the block."""
    model, other = two_adapters(), two_adapters()
    lora.set_active(model, {"a": 1, "b": 1})
    lora.merge(model)
    with lora.disabled(model):
        model.astype(np.float64)
        lora.delete_adapter(model, "b")
    lora.set_active(other, "a")
    other.astype(np.float64)
    lora.merge(other)
    np.testing.assert_array_equal(model(ids).data, other(ids).data)


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
            self.merged_weight = None

    monkeypatch.setattr(AdaptedLinear, "unmerge", spoil)
    assert lora.merge_check(two_adapters(), ids).restored is False


def test_the_state_of_a_merged_model_is_that_of_the_model(two_adapters, unit_llama):
    """The state has W, A and B. With W + ΔW in place of W, another model would apply the update twice."""
    model = two_adapters()
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    lora.merge(model)
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before
