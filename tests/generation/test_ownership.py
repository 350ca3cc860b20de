"""A text belongs to the model as it was when the text began: later changes of the adapters change no token."""

from contextlib import nullcontext

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.generation import Decoding, Sampler, decode
from tests.generation.texts import assert_identical, forward_passes_alone, request, written


def replace_a(model):
    lora.delete_adapter(model, "a")
    lora.inject(model, lora.LoraConfig(r=3, init_lora_weights=False), adapter="a", rng=np.random.default_rng(9))


def overwrite(model):
    for name in ("a", "b", "d"):
        for host in hosts(model, name).values():
            for tensor in host.updates[name].tensors.values():
                tensor.data[...] = 9


def merge_and_replace(model):
    lora.merge_and_unload(model)
    lora.inject(model, lora.LoraConfig(r=3, init_lora_weights=False), adapter="a", rng=np.random.default_rng(9))


def delete_all(model):
    for name in "abcd":
        lora.delete_adapter(model, name)


MOVES = {
    "merge": lora.merge,
    "set_active": lambda model: lora.set_active(model, {"c": -2.0}),
    "no active adapter": lambda model: lora.set_active(model, None),
    "delete_adapter": lambda model: lora.delete_adapter(model, "a"),
    "delete_adapter, all": delete_all,
    "delete_adapter, then inject": replace_a,
    "unload": lora.unload,
    "merge_and_unload": lora.merge_and_unload,
}
NEW_NUMBERS = {
    "adapters overwritten in place": overwrite,
    "train": lambda model: model.train(np.random.default_rng(1)),
    "astype": lambda model: model.astype(np.float32),
}


def texts_with(choices):
    """Requests for texts that go beyond the context of 12 tokens, and forget its older half at different steps."""
    lengths = [5, 12, 3, 9]
    return [request(i, lengths[i], 14, adapters=choice, sampler=Sampler(1.0)) for i, choice in enumerate(choices)]


TEXTS = texts_with([None, "a", {"d": 1.0, "c": -0.5}, {}])


@pytest.fixture(scope="module")
def undisturbed(make_family):
    """undisturbed(texts, rows): the texts of a model of the same weights to which nothing happens."""
    return lambda texts, rows: written(decode(make_family(), texts, rows))


@pytest.fixture(scope="module")
def expected(undisturbed):
    """TEXTS side by side, and one at a time."""
    return {rows: undisturbed(TEXTS, rows) for rows in (None, 1)}


@pytest.fixture(scope="module")
def expected_by_passes(undisturbed):
    """Three of TEXTS, where every token is read by a forward pass."""
    with forward_passes_alone():
        return undisturbed(TEXTS[:3], None)


def assert_unmoved(model, expected, move, steps, rows=None):
    """Texts that are interrupted by a move after some steps are those that are written without it."""
    running = decode(model, list(expected), rows)
    begun = [next(running) for _ in range(steps)]
    move(model)
    found = written([*begun, *running])
    for one, tokens in expected.items():
        assert_identical(found[one], tokens)
    assert differs(model, expected)


def differs(model, expected):
    """Whether the model now writes other texts for these requests, or refuses them."""
    try:
        for i, step in enumerate(decode(model, list(expected))):
            if any(not np.array_equal(token.logits, expected[token.request][i].logits) for token in step):
                return True
    except lora.AdapterError:
        return True
    return False


@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("move", {**MOVES, **NEW_NUMBERS})
def test_a_text_that_has_begun_is_not_changed_by(move, steps, family, expected):
    assert_unmoved(family, expected[None], {**MOVES, **NEW_NUMBERS}[move], steps)


@pytest.mark.parametrize("move", {**MOVES, **NEW_NUMBERS})
def test_a_text_that_goes_on_by_forward_passes_is_not_changed_by(move, family, expected_by_passes):
    """As the texts of a model do that the single-token path does not know."""
    with forward_passes_alone():
        assert_unmoved(family, expected_by_passes, {**MOVES, **NEW_NUMBERS}[move], 8)


@pytest.mark.parametrize("path", [nullcontext, forward_passes_alone], ids=["single tokens", "forward passes"])
@pytest.mark.parametrize("move", [lora.unmerge, lora.unload, merge_and_replace], ids=lambda move: move.__name__)
def test_a_text_of_a_merged_model_is_not_changed_by(move, path, family):
    lora.set_active(family, {"a": 0.5, "d": 1.0})
    lora.merge(family)
    with path():
        expected = written(decode(family, texts_with([None, None])))
        assert_unmoved(family, expected, move, 8)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("move", MOVES)
def test_a_text_that_begins_later_is_written_by_the_model_of_the_call(move, steps, family, expected):
    """Texts are written one at a time here: all but the first, or with no step all, begin after the move."""
    assert_unmoved(family, expected[1], MOVES[move], steps, rows=1)


def test_a_text_that_begins_later_uses_the_numbers_of_the_texts_with_the_same_adapter(family, undisturbed):
    expected = undisturbed(texts_with([{"a": 1.0, "b": 0.5}, "a", None]), 1)
    assert_unmoved(family, expected, overwrite, 8, rows=1)


def test_an_adapter_that_is_attached_later_is_unknown(family):
    decoding = Decoding(family)
    lora.inject(family, lora.LoraConfig(r=2), adapter="e", rng=np.random.default_rng(0))
    with pytest.raises(lora.AdapterError, match="there is no adapter 'e'; the model has"):
        decoding.add(request(0, 3, 5, adapters="e"))
    assert "e" in family.adapters


def test_a_text_leaves_the_model_alone(family):
    """Its arrays are the same objects with the same numbers, and so are its modules, adapters and strengths."""
    before = {name: (array, array.copy()) for name, array in family.state_dict().items()}
    modules, active = list(family.named_modules()), lora.active(family)
    for _ in decode(family, TEXTS):
        assert list(family.named_modules()) == modules
        assert lora.active(family) == active
    for name, array in family.state_dict().items():
        assert array is before[name][0]
        np.testing.assert_array_equal(array, before[name][1])
    assert not family.merged
