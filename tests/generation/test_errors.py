"""Invalid requests are refused, at the call if possible, and an error leaves all other state unchanged."""

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minilora import lora, threads
from minilora.autograd import Tensor, ops
from minilora.generation import Decoding, Request, Sampler, decode, write_stream
from minilora.generation.token_step import TokenStep
from minilora.nn import Linear
from minilora.nn.llama import Decoder
from tests.generation.texts import (
    Script,
    alone,
    assert_same,
    forward_passes_alone,
    request,
    smallest_bucket,
    written,
)

UNKNOWN = "there is no adapter 'bard'; the model has"
MERGED = r"cannot choose adapters for a text while .* call lora\.unmerge\(model\) first"


@pytest.mark.parametrize("choice", ["bard", {"a": 1.0, "bard": 0.5}], ids=str)
def test_an_unknown_adapter_is_refused_before_the_first_step(choice, family):
    """This holds for a list of requests; those of an iterator are checked when they are added."""
    asked = [request(0, 3, 2), request(1, 3, 5, adapters=choice)]
    with pytest.raises(lora.AdapterError, match=UNKNOWN):
        decode(family, asked, rows=1)
    steps = decode(family, iter(asked), rows=1)
    assert [len(next(steps)) for _ in range(2)] == [1, 1]
    with pytest.raises(lora.AdapterError, match=UNKNOWN):
        next(steps)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", None])
def test_a_strength_that_is_no_finite_number_is_refused(strength, family):
    with pytest.raises(lora.AdapterError, match="the strength of 'a' should be a finite number, got"):
        decode(family, [request(0, 3, 5, adapters={"a": strength})])


@pytest.mark.parametrize("choice", ["a", {"a": 1.0}, {}], ids=str)
def test_adapters_named_for_a_merged_model_are_refused(choice, family):
    """Even {} is refused, because the merged weights include the active adapters. `adapters=None` is allowed."""
    lora.merge(family)
    with pytest.raises(lora.AdapterError, match=MERGED):
        decode(family, [request(0, 3, 5), request(1, 3, 5, adapters=choice)])
    with pytest.raises(lora.AdapterError, match=MERGED):
        Decoding(family).add(request(1, 3, 5, adapters=choice))
    assert len(list(decode(family, [request(0, 3, 5)]))) == 5


def test_a_refused_request_leaves_the_others_to_be_written(family):
    decoding, asked = Decoding(family), request(0, 3, 5)
    decoding.add(asked)
    begun = decoding.step()
    with pytest.raises(lora.AdapterError, match=UNKNOWN):
        decoding.add(request(1, 3, 5, adapters="bard"))
    with pytest.raises(ValueError, match="expected `tokens` to be at least 1, got 0"):
        decoding.add(request(1, 3, 0))
    rest = [decoding.step() for _ in range(4)]
    assert_same([token for (token,) in [begun, *rest]], alone(family, asked))


@pytest.fixture
def spoiled(make_model):
    """A model with a NaN embedding for token 3, and an untied output head that is finite."""
    model = make_model(tie_word_embeddings=False)
    model.model.embed_tokens.weight.data[3] = np.nan
    return model


def text_of(*ids, prompt=1):
    """Return a request for a fixed text, the first `prompt` ids of which are the prompt."""
    return Request(np.array(ids[:prompt]), len(ids) - prompt, Script(ids[prompt:]))


def test_logits_that_are_not_finite_are_an_error(spoiled):
    """This is checked for prompts and for single-token steps."""
    message = "the model's logits are not finite; reduce the strengths of the adapters"
    assert len(list(decode(spoiled, [text_of(1, 2, 3)]))) == 2  # the last token is not processed
    with pytest.raises(ValueError, match=message):
        next(decode(spoiled, [text_of(3, 1, 2)]))
    steps = decode(spoiled, [text_of(1, 2, 3, 4)])
    assert [token.id for (token,) in (next(steps), next(steps))] == [2, 3]
    with pytest.raises(ValueError, match=message):
        next(steps)


def test_an_adapter_that_is_far_too_strong_is_an_error(family):
    with pytest.raises(ValueError, match="the model's logits are not finite"):
        list(decode(family, [request(0, 3, 5, adapters={"a": 1e300})]))


def blas():
    """Return the current number of threads of each BLAS library."""
    return [library.get_num_threads() for library in threads._blas()]


@pytest.fixture
def two_threads(monkeypatch):
    """Set two BLAS threads and all NumPy warnings. The list records the BLAS threads in each call of the model."""
    inside = []
    for part, name in (Decoder, "forward"), (TokenStep, "__call__"):
        right = getattr(part, name)
        monkeypatch.setattr(part, name, lambda *rest, right=right: inside.append(blas()) or right(*rest))
    with threadpool_limits(2, user_api="blas"), np.errstate(all="warn"):
        assert set(blas()) == {2}
        yield inside


def test_products_use_one_core_while_the_model_reads_and_are_left_as_they_were(two_threads, family):
    for _ in decode(family, [request(0, 10, 20)]):
        assert set(blas()) == {2}
    assert [set(numbers) for numbers in two_threads] == [{1}] * 20


def test_an_iterator_that_is_abandoned_leaves_products_as_they_were(two_threads, make_model):
    for steps in (decode(make_model(), [request(0, 10, 20)]), write_stream(make_model(vocab_size=256), "x", 9)):
        next(steps)
        assert set(blas()) == {2}
        steps.close()
        assert set(blas()) == {2}
    assert len(two_threads) == 2


def test_logits_that_are_not_finite_leave_products_and_warnings_as_they_were(two_threads, spoiled):
    before = np.geterr()
    for ids in [(3, 1), (1, 3, 2)]:
        with pytest.raises(ValueError, match="not finite"):
            list(decode(spoiled, [text_of(*ids)]))
        assert set(blas()) == {2}
        assert np.geterr() == before
    assert len(two_threads) == 3


class Failing(Linear):
    """A Linear that raises an error after `calls` calls."""

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0:
            raise KeyError("no product")
        return super().forward(x)


@pytest.mark.parametrize("calls", [0, 1])
def test_an_error_inside_the_model_leaves_products_and_warnings_as_they_were(calls, two_threads, make_model):
    """The error occurs in a prompt, or in a single-token step."""
    model, before = make_model(), np.geterr()
    mlp = model.model.layers[0].mlp
    mlp.up_proj = Failing(mlp.up_proj.weight)
    mlp.up_proj.calls = calls
    with pytest.raises(KeyError, match="no product"):
        list(decode(model, [request(0, 3, 5)]))
    assert set(blas()) == {2}
    assert np.geterr() == before
    assert len(two_threads) == calls + 1


class Stumbling:
    """A chooser that raises an error."""

    def choose(self, logits, draws):
        raise KeyError("no choice")


def test_an_error_of_a_chooser_comes_through(two_threads, family):
    with pytest.raises(KeyError, match="no choice"):
        next(decode(family, [request(0, 3, 5), request(1, 3, 5, sampler=Stumbling())]))
    assert set(blas()) == {2}
    assert two_threads
    assert len(list(decode(family, [request(0, 3, 5, sampler=Sampler(1.0))]))) == 5


@pytest.mark.parametrize("tokens", [2.5, float("inf"), float("nan")], ids=repr)
def test_tokens_that_are_no_whole_number_are_refused_at_the_call(tokens, family):
    with pytest.raises((ValueError, TypeError)):
        decode(family, [request(0, 3, tokens)])


@pytest.mark.parametrize("rows", [0, -1])
def test_fewer_rows_than_one_are_refused_at_the_call(rows, family):
    with pytest.raises(ValueError, match="row"):
        decode(family, [request(0, 3, 5)], rows)


@pytest.mark.parametrize("seed", [-1, (0, -1), 0.5], ids=repr)
def test_a_seed_that_cannot_be_is_refused_at_the_call(seed, family):
    with pytest.raises((ValueError, TypeError)):
        decode(family, [request(0, 3, 5), Request(np.array([1]), 5, seed=seed)])


class Hesitant:
    """A chooser that selects the most likely token, but raises an error at its n-th call."""

    def __init__(self, n):
        self.left, self.error = n, KeyError("not now")

    def choose(self, logits, draws):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return logits.argmax(axis=-1)


def steps_in_spite_of_errors(decoding, removed=lambda error: []):
    """Yield all steps. After an error, remove the requests in `removed(error)`. Fails after 100 attempts."""
    for _ in range(100):
        if not len(decoding):
            return
        try:
            yield decoding.step()
        except (KeyError, ValueError) as error:
            for one in removed(error):
                decoding.remove(one)
    raise AssertionError("the texts have not ended after 100 attempts")


def added(model, requests):
    """Return a Decoding with these requests."""
    decoding = Decoding(model)
    for one in requests:
        decoding.add(one)
    return decoding


texts = st.builds(request, seed=st.integers(0, 5), length=st.integers(1, 12), tokens=st.integers(1, 20))
buckets = st.sampled_from([2, 64])
errors = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 15)), min_size=1, max_size=3)


@settings(max_examples=9)
@given(
    good=st.lists(texts, min_size=1, max_size=3), errors=errors, remove=st.booleans(), smallest=st.sampled_from([2, 64])
)
@pytest.mark.parametrize("path", [nullcontext, forward_passes_alone], ids=["single tokens", "forward passes"])
def test_after_an_error_the_texts_go_on_as_they_were(path, good, errors, remove, smallest, one_family):
    """The request that caused the error is removed, or kept, because its chooser raises the error only once."""
    bad = [request(9, length, 20, sampler=Hesitant(n)) for length, n in errors]
    with path(), smallest_bucket(smallest):
        at_fault = (lambda error: [one for one in bad if one.sampler.error is error]) if remove else lambda error: []
        found = written(steps_in_spite_of_errors(added(one_family, [*bad, *good]), at_fault))
    for one in good if remove else [*good, *bad]:
        assert_same(found[one], alone(one_family, one))


@pytest.fixture(scope="module")
def one_family(make_family):
    return make_family()


LONG, SHORT = (2, 4, 2, 4, 2, 4, 5, 5, 6, 6, 6), (1, 5, 7, 7, 7, 2, 2, 4, 2, 1)


@pytest.mark.parametrize("prompt", [6, 8], ids=["in a single token", "in the prompt"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_after_a_text_without_finite_logits_is_removed_the_others_go_on_as_they_were(prompt, place, spoiled):
    """Its keys and values, which are not finite, would lie beyond the end of a shorter text that takes its place."""
    bad = text_of(1, 2, 4, 5, 6, 7, 3, 7, 7, 7, prompt=prompt)
    good, again = ([text_of(*LONG, prompt=8), text_of(*SHORT)] for _ in range(2))
    decoding = added(spoiled, [*good[:place], bad, *good[place:]])
    found = written(steps_in_spite_of_errors(decoding, lambda error: [bad]))
    for one, other in zip(good, again, strict=True):
        assert_same(found[one], alone(spoiled, other))


class Packed(NamedTuple):
    weight: np.ndarray
    scale: float


class Scaled(Linear):
    """A user-defined Linear that keeps its weight in a named tuple."""

    def forward(self, x):
        return ops.linear(x, Tensor(self.packed.weight * self.packed.scale))


def test_a_module_may_keep_a_named_tuple(make_model):
    model = make_model()
    mlp = model.model.layers[0].mlp
    mlp.up_proj = Scaled(mlp.up_proj.weight)
    mlp.up_proj.packed = Packed(mlp.up_proj.weight.data, 1.0)
    assert_same(alone(model, request(0, 3, 5)), alone(make_model(), request(0, 3, 5)))
