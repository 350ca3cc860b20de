"""A different adapter for each row of a batch: the logits match those of single rows, and the model is unchanged."""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import gradients, lora, no_grad
from minilora.adapters.attach import hosts
from minilora.autograd import OPS, ops
from minilora.nn import Linear
from minilora.nn.choice import chosen, resolve

IDS = np.random.default_rng(4).integers(29, size=(6, 9))
MIXED = ["a", None, {"a": 0.7, "b": -1.5}, "c", {"c": 2, "b": 0.5, "a": -1}, "a"]

strengths = st.dictionaries(st.sampled_from("abc"), st.floats(-2, 2), max_size=3)
choices = st.one_of(st.none(), st.sampled_from("abc"), strengths)


@pytest.fixture
def model(three_adapters):
    return three_adapters()


def alone(model, ids, choice):
    """Return the logits of `ids` with `choice` as the active adapters."""
    before = lora.active(model)
    lora.set_active(model, choice)
    logits = model(ids).data
    lora.set_active(model, before)
    return logits


def one_by_one(model, ids, adapters):
    return np.concatenate([alone(model, row[None], choice) for row, choice in zip(ids, adapters, strict=True)])


def off_by(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


@settings(max_examples=30)
@given(st.lists(choices, min_size=1, max_size=6))
def test_any_choices_are_their_single_runs(three_adapters, adapters):
    model, ids = three_adapters(), IDS[: len(adapters)]
    assert off_by(model(ids, adapters=adapters).data, one_by_one(model, ids, adapters)) < 1e-12


@pytest.mark.parametrize("choice", ["a", {"b": 0.3, "c": -1}, {}, {"a": 0}], ids=str)
@no_grad()  # active adapters are trainable, and with gradients their matrix products may be in a different order
def test_one_choice_for_all_rows_is_that_choice_made_active(choice, model):
    """One selection for the batch, or a list that repeats it, is bit-for-bit identical to making it active."""
    expected = alone(model, IDS, choice)
    np.testing.assert_array_equal(model(IDS, adapters=choice).data, expected)
    np.testing.assert_array_equal(model(IDS, adapters=[choice] * 6).data, expected)
    assert off_by(alone(model, IDS, "c"), expected) > 0.01


@pytest.mark.parametrize("nothing", [None, {}], ids=str)
def test_a_base_row_is_the_base_bit_for_bit(nothing, model):
    base = alone(model, IDS, None)
    logits = model(IDS, adapters=["a", nothing, "c", nothing, {"a": 1, "b": 1}, "b"]).data
    np.testing.assert_array_equal(logits[[1, 3]], base[[1, 3]])
    np.testing.assert_array_equal(model(IDS, adapters=[nothing] * 6).data, base)
    assert all(off_by(logits[i], base[i]) > 0.01 for i in (0, 2, 4, 5))


@pytest.mark.parametrize("active", ["b", None, {"a": -3, "c": 2}], ids=str)
def test_the_active_adapters_play_no_role_and_stay(active, model, snapshot):
    expected = model(IDS, adapters=MIXED).data
    lora.set_active(model, active)
    before, logits = snapshot(model), model(IDS).data
    np.testing.assert_array_equal(model(IDS, adapters=MIXED).data, expected)
    assert snapshot(model) == before
    np.testing.assert_array_equal(model(IDS).data, logits)


def test_inside_disabled_a_choice_still_counts(model):
    expected = model(IDS, adapters=MIXED).data
    with lora.disabled(model):
        np.testing.assert_array_equal(model(IDS, adapters=MIXED).data, expected)


def test_float32_stays_float32(two_adapters):
    model = two_adapters()
    adapters = ["a", None, {"a": 0.5, "b": np.float64(0.5)}, "b", "b", None]
    logits = model(IDS, adapters=adapters).data
    assert logits.dtype == np.float32
    assert off_by(logits, one_by_one(model, IDS, adapters)) < 1e-5


def test_gradients_are_the_sum_over_the_single_runs(model):
    """The gradient of an adapter is the sum over the rows that use it; other rows contribute nothing."""
    wanted = {name: p for name, p in model.named_parameters() if "lora_" in name}
    for p in wanted.values():
        p.requires_grad = True
    cotangent = np.random.default_rng(6).standard_normal((6, 9, 29))
    mixed = gradients(model(IDS, adapters=MIXED), list(wanted.values()), cotangent)
    expected = [np.zeros(p.shape) for p in wanted.values()]
    for i, choice in enumerate(MIXED):
        if choice is None:  # a row without adapters has no gradient
            continue
        single = gradients(model(IDS[i : i + 1], adapters=choice), list(wanted.values()), cotangent[i : i + 1])
        expected = [total + g for total, g in zip(expected, single, strict=True)]
    for name, found, total in zip(wanted, mixed, expected, strict=True):
        assert np.abs(total).max() > 1e-3, name
        assert off_by(found, total) < 1e-12, name


def test_what_is_frozen_has_no_gradient(model):
    """The base and selected but inactive adapters get no gradient: here only c is active."""
    model(IDS, adapters=MIXED).backward(np.ones((6, 9, 29)))
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in model.named_parameters() if name.endswith(".c")}


def test_products_do_not_grow_in_number_with_the_adapters(model, monkeypatch):
    """Two thin matrix products per adapted module and one per W, for any number of adapters and rows."""
    counted = Counter()

    def count(name, op):
        def counting(*inputs):
            counted[name] += 1
            return op(*inputs)

        return counting

    monkeypatch.setitem(OPS, "matmul", count("matmul", OPS["matmul"]))
    monkeypatch.setattr(ops, "linear", count("linear", ops.linear))
    linears = [module for _, module in model.named_modules() if isinstance(module, Linear)]
    six = [{"a": i, "b": 1, "c": -i} for i in range(6)]
    for used, adapters in (("abc", ["a", "b", "c"]), ("abc", MIXED), ("abc", six), ("b", ["b", None])):
        counted.clear()
        model(IDS[: len(adapters)], adapters=adapters)
        adapted = sum(not set(used).isdisjoint(linear.adapters) for linear in linears)
        assert counted == {"matmul": 2 * adapted, "linear": len(linears)}


def test_the_thin_products_are_as_wide_as_the_largest_rank(model, monkeypatch):
    """On q of layer 1, the largest selection combines ranks 2 and 5; v of layer 0 has only a, of rank 3."""
    widths = []

    def recorded(a, b):
        widths.append(b.shape)
        return matmul(a, b)

    matmul = OPS["matmul"]
    monkeypatch.setitem(OPS, "matmul", recorded)
    model(IDS[:3], adapters=["a", {"b": 1, "c": 2}, None])
    paths = [path for path, _ in hosts(model).items()]
    inner = dict(zip(paths, [first[-1] for first in widths[::2]], strict=True))
    assert [first[-1] for first in widths[::2]] == [second[-2] for second in widths[1::2]]
    assert inner["model.layers.1.self_attn.q_proj"] == 7
    assert inner["model.layers.0.self_attn.v_proj"] == 3


def test_threads_do_not_see_each_others_choices(model, monkeypatch):
    """Several threads call one model at the same time and synchronize in the middle of each forward pass."""
    work = [MIXED, "a", ["b"] * 5 + [None], None]
    meeting, layer = Barrier(len(work), timeout=10), model.model.layers[1]
    forward = layer.forward

    def meet(*inputs):
        meeting.wait()
        return forward(*inputs)

    expected = [model(IDS, adapters=adapters).data for adapters in work]
    monkeypatch.setattr(layer, "forward", meet)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(work)) as pool:
            calls = [pool.submit(lambda a: [model(IDS, adapters=a).data for _ in range(15)], a) for a in work]
            found = [call.result() for call in calls]
    finally:
        sys.setswitchinterval(interval)
    for results, right in zip(found, expected, strict=True):
        for logits in results:
            np.testing.assert_array_equal(logits, right)


def test_an_exception_inside_a_call_leaves_no_choice_behind(model, monkeypatch):
    before = model(IDS).data
    with pytest.raises(ValueError, match="exceed the model's context"):
        model(np.zeros((2, 33), dtype=int), adapters=["a", None])
    with monkeypatch.context() as broken:
        broken.setattr(model.model.layers[2], "forward", lambda *inputs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(IDS, adapters=MIXED)
    assert chosen() is None
    np.testing.assert_array_equal(model(IDS).data, before)


NUMBER = "the strength of 'a' should be a finite number, got "


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        (["a"], "expected one entry of `adapters` for each of 2 rows, got 1"),
        (["a", "bard"], "there is no adapter 'bard'; the model has a, b, c"),
        ({"a": float("nan")}, f"{NUMBER}nan"),
        ([{"a": "much"}, None], f"{NUMBER}'much'"),
        ([["a"], None], r"expected an adapter name, a dict of strengths, or None, got \['a'\]"),
        (2, "expected an adapter name, a dict of strengths, or a list with one of these per row, got 2"),
        ({"a", "b"}, "expected an adapter name, a dict of strengths, or a list with one of these per row, got {"),
    ],
    ids=str,
)
def test_what_is_refused(adapters, message, model, snapshot):
    before = snapshot(model)
    with pytest.raises(lora.AdapterError, match=message):
        model(IDS[:2], adapters=adapters)
    assert snapshot(model) == before
    assert chosen() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: lora.delete_adapter(model, "b"), "there is no adapter 'b'"),
        (lora.merge, r"cannot select .* are merged"),
    ],
)
def test_a_choice_made_before_is_checked_again(change, message, model):
    rows = resolve(model, MIXED, len(IDS))
    change(model)
    with pytest.raises(lora.AdapterError, match=message):
        model(IDS, adapters=rows)


def test_dropout_row_by_row_is_refused(model, attach, snapshot):
    attach(model, "wet", r=2, lora_dropout=0.5)
    before, adapters = snapshot(model), ["a", "wet", None]
    model.train(np.random.default_rng(0))
    with pytest.raises(lora.AdapterError, match=r"not supported with dropout; call model\.eval\(\) first"):
        model(IDS[:3], adapters=adapters)
    assert snapshot(model) == before
    model(IDS[:3], adapters=["a", "b", None])  # in training, rows may use adapters without dropout
    assert not np.array_equal(model(IDS, adapters="wet").data, model(IDS, adapters="wet").data)  # or one with dropout
    model.eval()
    assert off_by(model(IDS[:3], adapters=adapters).data, one_by_one(model, IDS[:3], adapters)) < 1e-12


def test_a_choice_of_rows_is_used_again_with_the_factors_as_they_are_by_then(model):
    """A selection that was resolved once is used in two backward passes; the second uses the changed factors."""
    lora.set_active(model, {"a": 1.0, "b": 1.0, "c": 1.0})
    rows, parameters = resolve(model, MIXED, len(IDS)), model.parameters(trainable=True)
    found = []
    for scale in (1.0, 0.5):
        for p in parameters:
            p.data *= scale
        fresh = gradients(model(IDS, adapters=MIXED).mean(), parameters)
        again = gradients(model(IDS, adapters=rows).mean(), parameters)
        for one, other in zip(fresh, again, strict=True):
            np.testing.assert_array_equal(one, other)
        found.append(again)
    assert any(np.abs(x - y).max() > 0 for x, y in zip(*found, strict=True))
