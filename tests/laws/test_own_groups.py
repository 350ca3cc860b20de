"""The laws of autograd, model and runs hold in minilora, and each of them catches a mistake planted for it."""

import dataclasses
import importlib
import os
from types import SimpleNamespace

import numpy as np
import pytest

from minilora import lora
from minilora.autograd import OPS, Tensor, engine, ops
from minilora.data import ByteTokenizer
from minilora.generation import Sampler
from minilora.laws import LAWS, run
from minilora.laws import autograd as autograd_laws
from minilora.laws import model as model_laws
from minilora.laws import runs as runs_laws
from minilora.laws import writing as writing_laws
from minilora.training import AdamW

attention = importlib.import_module("minilora.autograd.ops.attention")
llama = importlib.import_module("minilora.nn.llama")
adapter_files = importlib.import_module("minilora.adapters.files")
pretrained = importlib.import_module("minilora.nn.pretrained")
sampling = importlib.import_module("minilora.generation.sampling")
pieces = importlib.import_module("minilora.training.pieces")
token_step = importlib.import_module("minilora.generation.token_step")
training = importlib.import_module("minilora.training.run")

OWN = [law for law in LAWS.values() if law.group in ("autograd", "model", "runs")]


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """No file is needed after its test, so files need not reach the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("law", OWN, ids=lambda law: law.name)
def test_the_law_holds(law, dtype, capfd):
    verdict = run(law, cases=25, dtype=dtype, seed=7)
    assert verdict.holds, verdict.counterexample
    assert verdict.cases == 25
    assert capfd.readouterr() == ("", "")


# --- mistakes: each one breaks the package with a monkeypatch -----------------------------------------------------


def patched(target, name, change):
    """Replace target.name(...) with change(right, ...), where `right` is the original."""

    def spoil(patch):
        right = getattr(target, name)
        patch.setattr(target, name, lambda *given, **options: change(right, *given, **options))

    return spoil


def replaced(name, function):
    """Replace an op with function(right, ...), where `right` is the original."""

    def spoil(patch):
        patched(ops, name, function)(patch)
        patch.setitem(OPS, name, getattr(ops, name))

    return spoil


def value(name, change):
    """Replace the output of an op with change(output, *inputs), all of them arrays."""

    def wrong(right, *inputs, **options):
        out = right(*inputs, **options)
        out.data = change(out.data, *arrays(inputs)).astype(out.dtype)
        return out

    return replaced(name, wrong)


def rules(name, change):
    """Replace the rules of an op with change(rules, *inputs)."""

    def wrong(right, *inputs, **options):
        out = right(*inputs, **options)
        if out.requires_grad:
            out.node.rules = change(out.rules, *arrays(inputs))
        return out

    return replaced(name, wrong)


def arrays(inputs):
    return [x.data if isinstance(x, Tensor) else x for x in inputs]


def doubled(rules, *_):
    if callable(rules):
        return lambda g: [2 * gx for gx in rules(g)]
    return tuple(lambda g, rule=rule: 2 * rule(g) for rule in rules)


def as_they_are_found(right, output):
    """Order places by discovery, not by age: some are visited before all of their gradients have arrived."""
    found = [output.vertex]
    for place in found:
        found += {id(x): x for _, x in place.edges if all(x is not known for known in found)}.values()
    return found[::-1]


def of_the_mean(which):
    """If which(g, place), an input that was broadcast gets the mean of its gradients instead of the sum."""

    def unbroadcast(right, g, place):
        found = right(g, place)
        return found * found.dtype.type(found.size / g.size) if which(g, place) else found

    return patched(engine, "_unbroadcast", unbroadcast)


def rows_assigned(rules, x, ids):
    """If a row is used twice, only its last gradient counts."""

    def pull(g):
        gx = np.zeros_like(x)
        gx[ids] = g
        return gx

    return (pull,)


def all_rules_are_called(right, place, g):
    pulled = place.rules(g) if callable(place.rules) else [rule(g) for rule in place.rules]
    return [(x, pulled[i]) for i, x in place.edges]


def gradients_are_kept(right, output, wrt, g, kept={}):  # noqa: B006 (on purpose)
    return kept.setdefault(id(output), (right(output, wrt, g), output))[0]


def backward_begins_anew(right, output, cotangent=None):
    for x in engine._ancestors(output):
        if isinstance(x, Tensor):
            x.grad = None
    right(output, cotangent)


def heads_of_a_group_alternate(right, q, k, v):
    """Query head i uses key head i mod G instead of i // (H/G)."""
    return right(q, *(ops.concatenate(*[x] * (q.shape[1] // k.shape[1]), axis=1) for x in (k, v)))


def naive_softmax(p, x):
    with np.errstate(all="ignore"):
        return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def detached_head(right, self, ids, cache=None, adapters=None):
    weight = self.lm_head.weight
    return ops.linear(self.model(ids, cache), weight.detach() if weight is self.model.embed_tokens.weight else weight)


def rounded(right, path, tensors, *rest):
    right(path, {name: array.astype(np.float16).astype(array.dtype) for name, array in tensors.items()}, *rest)


def and_adapts_every_layer(right, model, folder, name):
    right(model, folder, name)
    lora.inject(model, lora.LoraConfig(1, 1), "another", rng=np.random.default_rng(0))
    lora.set_active(model, name)


def every_piece_alone(right, self, errors="replace"):
    return SimpleNamespace(decode=lambda data, final=False: data.decode("utf-8", "replace"))


def the_last_piece(change):
    """A text that is decoded in pieces ends with change(last piece)."""

    def stream(right, self, errors="replace"):
        decode = right(self, errors).decode
        return SimpleNamespace(decode=lambda d, final=False: change(decode(d, final)) if final else decode(d))

    return patched(ByteTokenizer, "stream", stream)


def without_moments(right, path, optimizer, *rest):
    right(path, optimizer, *rest)
    optimizer.m[...] = 0


def a_norm_is_not_frozen(right, model, *rest, **options):
    right(model, *rest, **options)
    model.model.norm.weight.requires_grad = True


def gains_decay(right, self, lr):
    decay = self.groups[0].weight_decay
    self.groups = [group._replace(weight_decay=decay) for group in self.groups]
    right(self, lr)


def at_position_zero(right, config, start, stop, like):
    return tuple(np.repeat(table, stop - start, axis=0) for table in right(config, 0, 1, like))


def one_token_more(right, self, logits):
    return right(dataclasses.replace(self, top_k=self.top_k + 1 if self.top_k else None), logits)


OWN_DICE = np.random.default_rng(0)

MISTAKES = {
    "the-pull-back-is-linear-in-the-cotangent": rules(
        "cross_entropy", lambda rules, *_: (lambda g: rules[0](np.ones_like(g)),)
    ),
    "the-gradient-is-the-slope-in-every-direction": rules("embedding", rows_assigned),
    "the-gradient-of-a-sum-is-the-sum-of-the-gradients": rules("add", lambda rules, *_: (rules[0], lambda g: -g)),
    "a-product-is-differentiated-one-factor-at-a-time": rules("mul", lambda rules, *_: rules[::-1]),
    "a-composition-is-pulled-back-from-the-outside-in": patched(engine, "_ancestors", as_they_are_found),
    "linear-ops-are-adjoint-to-their-pull-backs": rules("rotary", doubled),
    "the-adjoint-of-broadcasting-is-summation": of_the_mean(lambda g, place: g.ndim == len(place.shape)),
    "the-adjoint-of-a-gather-is-scatter-add": rules("embedding", rows_assigned),
    "what-is-used-twice-gets-both-gradients": patched(
        engine, "_pull_back", lambda right, place, g: list({id(x): (x, gx) for x, gx in right(place, g)}.values())
    ),
    "a-frozen-input-costs-no-gradient": patched(engine, "_pull_back", all_rules_are_called),
    "fused-ops-equal-their-compositions": rules("silu", doubled),
    "causal-attention-equals-its-composition": rules("causal_attention", doubled),
    "taking-gradients-changes-nothing": rules(
        "tanh", lambda rules, x: (lambda g: np.multiply(g, 1 - np.tanh(x) ** 2, out=g),)
    ),
    "backward-adds-to-the-gradient-that-is-there": patched(engine, "backward", backward_begins_anew),
    "what-comes-later-changes-nothing-before": patched(
        attention, "_future", lambda right, n, like: np.triu(np.full_like(like, -5, shape=(n, n)), k=1)
    ),
    "a-cache-replaces-the-past": patched(
        llama, "rotary_tables", lambda right, config, start, stop, like: right(config, 0, stop - start, like)
    ),
    "rotary-scores-depend-on-the-distance-alone": patched(
        model_laws, "rotary_tables", lambda right, config, m, _, like: right(config, m * m, m * m + 1, like)
    ),
    "rotary-keeps-lengths": value("rotary", lambda y, x, cos, sin: x + np.concatenate([cos, sin], axis=-1)),
    "rms-norm-forgets-the-scale": value("rms_norm", lambda y, x, w: w * x / np.mean(x * x, axis=-1, keepdims=True)),
    "rms-norm-gives-a-root-mean-square-of-one": value("rms_norm", lambda y, x, w: y / x.shape[-1] ** 0.5),
    "softmax-lies-on-the-simplex": value("softmax", lambda p, x: np.exp(x) / np.exp(x).sum(axis=0)),
    "softmax-forgets-a-shift": value("softmax", naive_softmax),
    "the-gradient-of-cross-entropy-is-p-minus-y": rules(
        "cross_entropy", lambda rules, z, targets: (lambda g: rules[0](g * targets.size),)
    ),
    "knowing-nothing-costs-log-V": value("cross_entropy", lambda loss, z, targets: loss * targets.size),
    "rows-of-a-batch-do-not-see-each-other": value(
        "rms_norm", lambda y, x, w: w * x / np.sqrt(np.mean(x * x, axis=(0, -1), keepdims=True))
    ),
    "permuting-a-batch-permutes-the-output": value(
        "embedding", lambda x, *_: x * (1 + 1e-6 * np.arange(len(x))[:, None, None])
    ),
    "the-gradient-of-a-batch-is-the-mean-over-its-rows": rules("embedding", rows_assigned),
    "attention-averages-the-values-it-sees": replaced(
        "causal_attention", lambda right, q, k, v: right(q, k, v) * (1.0 + (np.arange(q.shape[2])[:, None] > 0))
    ),
    "grouped-heads-are-full-heads-that-repeat": replaced("causal_attention", heads_of_a_group_alternate),
    "a-tied-head-learns-in-both-places": patched(llama.Llama, "forward", detached_head),
    "without-its-branches-the-stream-passes-through": patched(
        llama.DecoderLayer, "forward", lambda right, self, x, turns, cache=None: self.mlp(x)
    ),
    "adapter-files-keep-every-bit": patched(adapter_files, "write_tensors", rounded),
    "model-folders-keep-every-bit": patched(pretrained, "write_tensors", rounded),
    "the-tokenizer-loses-nothing": patched(
        ByteTokenizer, "encode", lambda right, self, text: np.array([ord(c) % 256 for c in text])
    ),
    "wherever-its-bytes-are-cut-a-text-is-the-same": patched(ByteTokenizer, "stream", every_piece_alone),
    "a-resumed-run-is-one-that-never-stopped": patched(training.checkpoint, "load", without_moments),
    "the-same-seed-gives-the-same-bytes": patched(
        training, "sample_batch", lambda right, ids, batch, context, rng: right(ids, batch, context, OWN_DICE)
    ),
    "training-an-adapter-leaves-the-whole-base-as-it-was": patched(lora, "inject", a_norm_is_not_frozen),
    "the-first-step-of-adamw-is-as-long-as-the-learning-rate": patched(AdamW, "step", gains_decay),
    "greedy-writing-takes-the-likeliest-token": patched(token_step, "rotary_tables", at_position_zero),
    "a-row-writes-by-its-own-dice": patched(
        Sampler, "choose", lambda right, self, logits, draws: right(self, logits, draws[::-1])
    ),
    "without-freedom-sampling-is-greedy": patched(Sampler, "probabilities", one_token_more),
    "cutting-the-tail-keeps-the-ratios": patched(
        sampling, "_nucleus", lambda right, p, top_p: p * (right(p, top_p) > 0)
    ),
}
"""One mistake per law."""

MORE = [
    ("the-adjoint-of-broadcasting-is-summation", of_the_mean(lambda g, place: g.ndim > len(place.shape) > 0)),
    ("the-adjoint-of-a-gather-is-scatter-add", rules("index", rows_assigned)),
    ("fused-ops-equal-their-compositions", value("softmax", lambda p, x: np.exp(x) / np.exp(x).sum(axis=0))),
    ("causal-attention-equals-its-composition", replaced("causal_attention", heads_of_a_group_alternate)),
    ("taking-gradients-changes-nothing", patched(autograd_laws, "gradients", gradients_are_kept)),
    (
        "without-its-branches-the-stream-passes-through",  # uses the embedding as the head, tied or not
        patched(
            llama.Llama,
            "forward",
            lambda right, self, ids, *_, **__: ops.linear(self.model(ids), self.model.embed_tokens.weight),
        ),
    ),
    ("adapter-files-keep-every-bit", patched(lora, "load_adapter", and_adapts_every_layer)),
    (
        "the-tokenizer-loses-nothing",
        patched(ByteTokenizer, "decode", lambda right, self, ids, **options: right(self, ids, **options) + "\n"),
    ),
    ("wherever-its-bytes-are-cut-a-text-is-the-same", the_last_piece(lambda piece: "")),
    ("wherever-its-bytes-are-cut-a-text-is-the-same", the_last_piece(lambda piece: piece or "\ufffd")),
    (
        "a-resumed-run-is-one-that-never-stopped",
        patched(pieces, "drawing_from", lambda right, rng: right(OWN_DICE)),  # dropout draws from another generator
    ),
    (
        "greedy-writing-takes-the-likeliest-token",
        patched(writing_laws, "generate", lambda right, *given: [np.append(new, new[-1]) for new in right(*given)]),
    ),
]
"""Other ways to break laws that state several things."""


@pytest.mark.parametrize(("law", "spoil"), [*MISTAKES.items(), *MORE])
def test_the_law_catches_a_mistake(law, spoil, monkeypatch):
    spoil(monkeypatch)
    verdict = run(LAWS[law])
    assert verdict.holds is False
    assert "raised" not in verdict.counterexample  # a wrong result, not an exception


@pytest.mark.parametrize("op", sorted(OPS))
def test_a_wrong_derivative_is_caught_in_every_op(op, monkeypatch):
    rules(op, doubled)(monkeypatch)
    verdict = run(LAWS["the-gradient-is-the-slope-in-every-direction"], cases=100)
    assert verdict.holds is False
    assert "the slope should be" in verdict.counterexample


@pytest.mark.parametrize("code", [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF])
def test_the_bytes_of_a_character(code):
    assert runs_laws.utf8(code) == list(chr(code).encode())


def test_every_law_has_a_mistake():
    assert MISTAKES.keys() == {law.name for law in OWN}
