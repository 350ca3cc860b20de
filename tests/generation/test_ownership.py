"""A text belongs to the model as it was when the text began: what later happens to the adapters changes no token."""

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.generation import Sampler, decode
from tests.generation.texts import DECODE, assert_identical, request, written

CHOICES = [None, "a", {"d": 1.0, "c": -0.5}, {}]


def replace_a(model):
    lora.delete_adapter(model, "a")
    lora.inject(model, lora.LoraConfig(r=3, init_lora_weights=False), adapter="a", rng=np.random.default_rng(9))


def overwrite(model):
    for name in ("a", "b", "d"):
        for host in hosts(model, name).values():
            for tensor in host.updates[name].tensors.values():
                tensor.data[...] = 9


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


@pytest.fixture(params=["single-token path", "forward passes"])
def path(request, monkeypatch):
    """The texts go on by either way that the loop has of computing the next token."""
    if request.param == "forward passes":
        monkeypatch.setattr(DECODE, "can_step", lambda model: False)


def asked(choices=CHOICES):
    """Texts that go beyond the context of 12 tokens several times, and forget at different steps."""
    lengths = [5, 12, 3, 9]
    return [request(i, lengths[i], 30, adapters=choice, sampler=Sampler(1.0)) for i, choice in enumerate(choices)]


def differs(model, requests, expected):
    """Whether the model now writes other texts for these requests, or refuses them."""
    try:
        texts = written(decode(model, requests))
    except lora.AdapterError:
        return True
    return any(
        not np.array_equal(token.logits, other.logits)
        for one in requests
        for token, other in zip(texts[one], expected[one], strict=True)
    )


def assert_unmoved(model, requests, move, steps, rows=None):
    """Texts that are interrupted by a move after some steps are those that are written without it."""
    expected = written(decode(model, requests, rows))
    running = decode(model, requests, rows)
    begun = [next(running) for _ in range(steps)]
    move(model)
    found = written([*begun, *running])
    for one in requests:
        assert_identical(found[one], expected[one])
    assert differs(model, requests, expected)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("move", {**MOVES, **NEW_NUMBERS})
def test_a_text_that_has_begun_is_not_changed_by(move, steps, family):
    assert_unmoved(family, asked(), {**MOVES, **NEW_NUMBERS}[move], steps)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("move", [lora.unmerge, lora.unload, lora.merge_and_unload], ids=lambda f: f.__name__)
def test_a_text_of_a_merged_model_is_not_changed_by(move, steps, family):
    lora.set_active(family, {"a": 0.5, "d": 1.0})
    lora.merge(family)
    assert_unmoved(family, asked([None, None]), move, steps)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("steps", [0, 1])
def test_a_text_that_begins_later_is_written_by_the_model_of_the_call(move, steps, family):
    """Texts are written one at a time here: all but the first, or with no step all, begin after the move."""
    assert_unmoved(family, asked(), MOVES[move], steps, rows=1)


def test_a_text_that_begins_later_uses_the_numbers_of_the_texts_with_the_same_adapter(family):
    assert_unmoved(family, asked([{"a": 1.0, "b": 0.5}, "a", None]), overwrite, 8, rows=1)


def test_an_adapter_that_is_attached_later_is_unknown(family):
    decoding = DECODE.Decoding(family)
    lora.inject(family, lora.LoraConfig(r=2), adapter="e", rng=np.random.default_rng(0))
    with pytest.raises(lora.AdapterError, match="there is no adapter 'e'; the model has a, b, c, d"):
        decoding.add(request(0, 3, 5, adapters="e"))
    assert "e" in family.adapters


def test_a_text_leaves_the_model_alone(family):
    """Its arrays are the same objects with the same numbers, and so are its modules, adapters and strengths."""
    before = {name: (array, array.copy()) for name, array in family.state_dict().items()}
    modules, active = list(family.named_modules()), lora.active(family)
    for _ in decode(family, asked()):
        assert list(family.named_modules()) == modules
        assert lora.active(family) == active
    for name, array in family.state_dict().items():
        assert array is before[name][0]
        np.testing.assert_array_equal(array, before[name][1])
    assert not family.merged
