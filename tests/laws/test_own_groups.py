"""The laws of autograd, model and runs: they hold here, and each of them catches a mistake that is planted for it."""

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
sampling = importlib.import_module("minilora.generation.sampling")
step = importlib.import_module("minilora.training.step")
token_step = importlib.import_module("minilora.generation.token_step")
training = importlib.import_module("minilora.training.loop")

OWN = [law for law in LAWS.values() if law.group in ("autograd", "model", "runs")]


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """Nothing here survives the test: what has been written need not have reached the disk."""
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


# --- mistakes: what is wrong, and what the counterexample names ---------------------------------------------------

MISTAKES = []


def mistake(law, names):
    """Enter a function, which spoils the package by a monkeypatch, as a mistake that `law` catches."""

    def enter(spoil):
        MISTAKES.append(pytest.param(law, names, spoil, id=f"{law}: {spoil.__name__}"))
        return spoil

    return enter


def replace_op(patch, name, function):
    """From now on the op is `function`, given the right one and what that was given."""
    right = OPS[name]

    def wrong(*inputs, **options):
        return function(right, *inputs, **options)

    patch.setattr(ops, name, wrong)
    patch.setitem(OPS, name, wrong)


def change_value(patch, name, change):
    """From now on the op's output is change(output, *inputs), all arrays."""

    def wrong(right, *inputs, **options):
        out = right(*inputs, **options)
        out.data = change(out.data, *arrays(inputs)).astype(out.dtype)
        return out

    replace_op(patch, name, wrong)


def change_rules(patch, name, change):
    """From now on the op's rules are change(rules, *inputs)."""

    def wrong(right, *inputs, **options):
        out = right(*inputs, **options)
        if out.requires_grad:
            out.node.rules = change(out.rules, *arrays(inputs))
        return out

    replace_op(patch, name, wrong)


def doubled(rules, *_):
    if callable(rules):
        return lambda g: [2 * gx for gx in rules(g)]
    return tuple(lambda g, rule=rule: 2 * rule(g) for rule in rules)


def arrays(inputs):
    return [x.data if isinstance(x, Tensor) else x for x in inputs]


@mistake("the-pull-back-is-linear-in-the-cotangent", "op = cross_entropy")
def what_arrives_at_the_loss_is_ignored(patch):
    change_rules(patch, "cross_entropy", lambda rules, *_: (lambda g: rules[0](np.ones_like(g)),))


@mistake("the-gradient-is-the-slope-in-every-direction", "op = causal_attention")
def the_gradient_of_the_keys_is_transposed_and_reshaped(patch):
    def joint(rules, *_):
        def pull(g):
            dq, dk, dv = rules(g)
            return dq, dk.swapaxes(-1, -2).reshape(dk.shape), dv

        return pull

    change_rules(patch, "causal_attention", joint)


@mistake("the-gradient-of-a-sum-is-the-sum-of-the-gradients", "the gradient should be")
def the_second_summand_is_subtracted(patch):
    change_rules(patch, "add", lambda rules, *_: (rules[0], lambda g: -g))


@mistake("a-product-is-differentiated-one-factor-at-a-time", "the gradient should be")
def each_factor_gets_itself(patch):
    change_rules(patch, "mul", lambda rules, *_: rules[::-1])


@mistake("a-composition-is-pulled-back-from-the-outside-in", "f = x tanh(x)")
def tensors_are_visited_as_they_are_found(patch):
    """Rather than by age: one is visited before all that arrives at it has arrived."""
    right = engine._ancestors

    def found(output):
        order = {id(output.place): output.place}
        for place in (todo := [output.place]):
            for _, x in place.edges:
                if id(x) not in order:
                    order[id(x)] = x
                    todo.append(x)
        assert len(order) == len(right(output))
        return list(order.values())[::-1]

    patch.setattr(engine, "_ancestors", found)


@mistake("linear-ops-are-adjoint-to-their-pull-backs", "op = rotary")
def the_gradient_is_turned_forward(patch):
    right = OPS["rotary"]
    change_rules(patch, "rotary", lambda rules, x, cos, sin: (lambda g: right(g, cos, sin).data,))


@mistake("the-adjoint-of-broadcasting-is-summation", "the gradient of x should be")
def broadcasting_takes_the_mean(patch):
    right = engine._unbroadcast
    patch.setattr(engine, "_unbroadcast", lambda g, like: right(g, like) * like.dtype.type(like.size / g.size))


def some_axes_take_the_mean(patch, which):
    right = engine._unbroadcast

    def unbroadcast(g, like):
        found = right(g, like)
        return found * like.dtype.type(like.size / g.size) if which(g, like) else found

    patch.setattr(engine, "_unbroadcast", unbroadcast)


@mistake("the-adjoint-of-broadcasting-is-summation", "the gradient of x should be")
def axes_of_length_one_take_the_mean(patch):
    some_axes_take_the_mean(patch, lambda g, like: g.ndim == like.ndim)


@mistake("the-adjoint-of-broadcasting-is-summation", "the gradient of x should be")
def missing_axes_take_the_mean(patch):
    some_axes_take_the_mean(patch, lambda g, like: g.ndim > like.ndim > 0)


def rows_are_assigned(rules, weight, ids):
    def pull(g):
        gw = np.zeros_like(weight)
        gw[ids] = g
        return gw

    return (pull,)


@mistake("the-gradient-is-the-slope-in-every-direction", "op = embedding")
def repeated_ids_count_once(patch):
    change_rules(patch, "embedding", rows_are_assigned)


@mistake("the-adjoint-of-a-gather-is-scatter-add", "op = embedding")
def the_last_of_repeated_ids_wins(patch):
    change_rules(patch, "embedding", rows_are_assigned)


@mistake("the-adjoint-of-a-gather-is-scatter-add", "op = index")
def the_last_of_repeated_rows_wins(patch):
    change_rules(patch, "index", rows_are_assigned)


@mistake("what-is-used-twice-gets-both-gradients", "the gradient of x should be")
def the_second_use_replaces_the_first(patch):
    right = engine._pull_back
    patch.setattr(engine, "_pull_back", lambda place, g: list({id(x): (x, gx) for x, gx in right(place, g)}.values()))


@mistake("a-frozen-input-costs-no-gradient", "which is frozen, was called")
def all_rules_are_called(patch):
    def pull_back(place, g):
        pulled = place.rules(g) if callable(place.rules) else [rule(g) for rule in place.rules]
        return [(x, pulled[i]) for i, x in place.edges]

    patch.setattr(engine, "_pull_back", pull_back)


def softmax_over_the_first_axis(patch):
    change_value(patch, "softmax", lambda p, x: np.exp(x) / np.exp(x).sum(axis=0))


@mistake("fused-ops-equal-their-compositions", "op = softmax")
def softmax_is_taken_over_the_wrong_axis(patch):
    softmax_over_the_first_axis(patch)


@mistake("fused-ops-equal-their-compositions", "the gradient of input 0 should be")
def a_fused_gradient_is_doubled(patch):
    change_rules(patch, "silu", doubled)


@mistake("causal-attention-equals-its-composition", "the gradient of input 1 should be")
def the_keys_are_transposed_on_the_way_back(patch):
    the_gradient_of_the_keys_is_transposed_and_reshaped(patch)


@mistake("causal-attention-equals-its-composition", "the value should be")
def the_heads_of_a_group_alternate(patch):
    """Query head i uses key head i mod G, not i // (H/G)."""

    def tiled(right, q, k, v):
        copies = q.shape[1] // k.shape[1]
        return right(q, *(ops.concatenate(*[x] * copies, axis=1) for x in (k, v)))

    replace_op(patch, "causal_attention", tiled)


@mistake("taking-gradients-changes-nothing", "op = tanh")
def a_rule_works_in_place(patch):
    change_rules(patch, "tanh", lambda rules, x: (lambda g: np.multiply(g, 1 - np.tanh(x) ** 2, out=g),))


@mistake("taking-gradients-changes-nothing", "the gradient of input 0 should be")
def a_rule_adds_to_what_it_gave_before(patch):
    def adding(rules, x):
        total = np.zeros_like(x)

        def rule(g):
            total[...] += rules[0](g)
            return total.copy()

        return (rule,)

    change_rules(patch, "silu", adding)


@mistake("taking-gradients-changes-nothing", "the gradient of input 0 should be")
def gradients_are_kept(patch):
    right, kept = autograd_laws.gradients, {}

    def gradients(output, wrt, g):
        return kept.setdefault(id(output), (right(output, wrt, g), output))[0]

    patch.setattr(autograd_laws, "gradients", gradients)


@mistake("backward-adds-to-the-gradient-that-is-there", "x.grad should be")
def backward_begins_anew(patch):
    right = engine.backward

    def backward(output, cotangent=None):
        for x in engine._ancestors(output):
            if isinstance(x, Tensor):
                x.grad = None
        right(output, cotangent)

    patch.setattr(engine, "backward", backward)


@mistake("what-comes-later-changes-nothing-before", "logits of the first")
def the_mask_is_finite(patch):
    patch.setattr(attention, "_future", lambda n, like: np.triu(np.full_like(like, -5, shape=(n, n)), k=1))


def positions_begin_at_zero(patch):
    right = llama.rotary_turns
    patch.setattr(llama, "rotary_turns", lambda config, start, stop, like: right(config, 0, stop - start, like))


@mistake("a-cache-replaces-the-past", "logits should be")
def positions_begin_at_zero_after_the_cache(patch):
    positions_begin_at_zero(patch)


@mistake("rotary-scores-depend-on-the-distance-alone", "the score should be")
def angles_grow_with_the_square_of_the_position(patch):
    right = model_laws.rotary_turns
    patch.setattr(model_laws, "rotary_turns", lambda config, m, _, like: right(config, m * m, m * m + 1, like))


@mistake("rotary-keeps-lengths", "|R(m) x|² should be")
def positions_are_added(patch):
    change_value(patch, "rotary", lambda y, x, cos, sin: x + np.concatenate([cos, sin], axis=-1))


@mistake("rms-norm-forgets-the-scale", "norm(c x) should be")
def the_root_is_forgotten(patch):
    change_value(patch, "rms_norm", lambda y, x, w: w * x / np.mean(x * x, axis=-1, keepdims=True))


@mistake("rms-norm-gives-a-root-mean-square-of-one", "rms of the output should be")
def the_sum_stands_for_the_mean(patch):
    change_value(patch, "rms_norm", lambda y, x, w: y / x.shape[-1] ** 0.5)


@mistake("softmax-lies-on-the-simplex", "the sum of probabilities should be")
def softmax_is_taken_over_the_rows(patch):
    softmax_over_the_first_axis(patch)


@mistake("softmax-forgets-a-shift", "softmax(x + c) should be")
def softmax_overflows(patch):
    def naive(p, x):
        with np.errstate(all="ignore"):
            return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)

    change_value(patch, "softmax", naive)


@mistake("the-gradient-of-cross-entropy-is-p-minus-y", "∂L/∂z should be")
def the_number_of_targets_is_forgotten(patch):
    change_rules(patch, "cross_entropy", lambda rules, z, targets: (lambda g: rules[0](g * targets.size),))


@mistake("knowing-nothing-costs-log-V", "the loss should be")
def the_loss_is_a_sum(patch):
    change_value(patch, "cross_entropy", lambda loss, z, targets: loss * targets.size)


@mistake("rows-of-a-batch-do-not-see-each-other", "logits should be")
def the_norm_goes_over_the_batch(patch):
    change_value(patch, "rms_norm", lambda y, x, w: w * x / np.sqrt(np.mean(x * x, axis=(0, -1), keepdims=True)))


@mistake("permuting-a-batch-permutes-the-output", "logits should be")
def a_rows_place_is_felt(patch):
    change_value(patch, "embedding", lambda x, *_: x * (1 + 1e-6 * np.arange(len(x))[:, None, None]))


@mistake("the-gradient-of-a-batch-is-the-mean-over-its-rows", "the gradient of model.embed_tokens.weight should be")
def repeated_tokens_count_once(patch):
    change_rules(patch, "embedding", rows_are_assigned)


@mistake("attention-averages-the-values-it-sees", "how far the output lies outside the values seen")
def later_weights_sum_to_more_than_one(patch):
    right = ops.causal_attention

    def attention(q, k, v):
        return right(q, k, v) * np.where(np.arange(q.shape[2])[:, None] > 0, 2.0, 1.0)

    patch.setattr(ops, "causal_attention", attention)


@mistake("grouped-heads-are-full-heads-that-repeat", "logits should be")
def the_heads_of_a_group_alternate_in_the_model(patch):
    the_heads_of_a_group_alternate(patch)


@mistake("a-tied-head-learns-in-both-places", "the gradient of the shared table should be")
def the_tied_head_is_detached(patch):
    def forward(self, ids, cache=None, adapters=None):
        weight = self.lm_head.weight
        tied = weight is self.model.embed_tokens.weight
        return ops.linear(self.model(ids, cache), weight.detach() if tied else weight)

    patch.setattr(llama.Llama, "forward", forward)


@mistake("without-its-branches-the-stream-passes-through", "logits should be")
def the_stream_is_cut(patch):
    patch.setattr(llama.DecoderLayer, "forward", lambda self, x, turns, cache=None: self.mlp(x))


@mistake("without-its-branches-the-stream-passes-through", "tied = False")
def the_head_is_the_embedding_always(patch):
    def forward(self, ids, cache=None, adapters=None):
        return ops.linear(self.model(ids, cache), self.model.embed_tokens.weight)

    patch.setattr(llama.Llama, "forward", forward)


def write_float16(patch, module):
    right = module.write_tensors

    def write(path, tensors):
        right(path, {name: array.astype(np.float16).astype(array.dtype) for name, array in tensors.items()})

    patch.setattr(module, "write_tensors", write)


@mistake("adapter-files-keep-every-bit", "lora_A.drawn should be")
def adapters_are_rounded(patch):
    write_float16(patch, importlib.import_module("minilora.adapters.files"))


@mistake("adapter-files-keep-every-bit", "the parameters should be")
def loading_adapts_every_layer(patch):
    right = lora.load_adapter

    def load_adapter(model, folder, name):
        right(model, folder, name)
        lora.inject(model, lora.LoraConfig(1, 1), "another", rng=np.random.default_rng(0))

    patch.setattr(lora, "load_adapter", load_adapter)


@mistake("model-folders-keep-every-bit", "model.embed_tokens.weight should be")
def models_are_rounded(patch):
    write_float16(patch, importlib.import_module("minilora.nn.pretrained"))


@mistake("the-tokenizer-loses-nothing", "ids should be")
def a_character_is_a_byte(patch):
    patch.setattr(ByteTokenizer, "encode", lambda self, text: np.array([ord(c) % 256 for c in text]))


@mistake("the-tokenizer-loses-nothing", "the text should come back as")
def the_last_character_is_lost(patch):
    right = ByteTokenizer.decode
    patch.setattr(ByteTokenizer, "decode", lambda self, ids, **options: right(self, ids, **options)[:-1])


@mistake("the-tokenizer-loses-nothing", "the text should come back as")
def a_newline_is_added(patch):
    right = ByteTokenizer.decode
    patch.setattr(ByteTokenizer, "decode", lambda self, ids, **options: right(self, ids, **options) + "\n")


@mistake("wherever-its-bytes-are-cut-a-text-is-the-same", "the pieces should make")
def every_piece_is_decoded_alone(patch):
    class Pieces:
        def decode(self, data, final=False):
            return data.decode("utf-8", "replace")

    patch.setattr(ByteTokenizer, "stream", lambda self, errors="replace": Pieces())


def the_last_piece_becomes(patch, change):
    right = ByteTokenizer.stream

    def stream(self, errors="replace"):
        decode = right(self, errors).decode
        return SimpleNamespace(decode=lambda data, final=False: change(decode(data, final)) if final else decode(data))

    patch.setattr(ByteTokenizer, "stream", stream)


@mistake("wherever-its-bytes-are-cut-a-text-is-the-same", "the pieces should make")
def what_is_broken_off_is_dropped(patch):
    the_last_piece_becomes(patch, lambda piece: "")


@mistake("wherever-its-bytes-are-cut-a-text-is-the-same", "the pieces should make")
def the_end_is_marked(patch):
    the_last_piece_becomes(patch, lambda piece: piece or "\ufffd")


@mistake("a-resumed-run-is-one-that-never-stopped", "should be, bit for bit")
def the_moments_are_not_resumed(patch):
    right = training.checkpoint.load

    def load(path, optimizer, *rest):
        right(path, optimizer, *rest)
        optimizer.m[...] = 0

    patch.setattr(training.checkpoint, "load", load)


@mistake("a-resumed-run-is-one-that-never-stopped", "method = lora with dropout")
def dropout_has_a_generator_of_its_own(patch):
    right, own = step.drawing_from, np.random.default_rng(0)
    patch.setattr(step, "drawing_from", lambda rng: right(own))


@mistake("the-same-seed-gives-the-same-bytes", "should be, bit for bit")
def batches_come_from_a_generator_of_their_own(patch):
    right, own = training.sample_batch, np.random.default_rng(0)
    patch.setattr(training, "sample_batch", lambda ids, batch, context, rng: right(ids, batch, context, own))


@mistake("training-an-adapter-leaves-the-whole-base-as-it-was", "model.norm.weight should be")
def a_norm_is_not_frozen(patch):
    right = lora.inject

    def inject(model, *rest, **options):
        right(model, *rest, **options)
        model.model.norm.weight.requires_grad = True

    patch.setattr(lora, "inject", inject)


@mistake("the-first-step-of-adamw-is-as-long-as-the-learning-rate", "w should be")
def gains_decay(patch):
    right = AdamW.step

    def step(self, lr):
        self.decayed = self.data.size
        right(self, lr)

    patch.setattr(AdamW, "step", step)


@mistake("greedy-writing-takes-the-likeliest-token", "scores of the tokens in row")
def what_is_written_stands_at_position_zero(patch):
    right = token_step.rotary_turns

    def stand_still(config, start, stop, like):
        return tuple(np.repeat(table, stop - start, axis=0) for table in right(config, 0, 1, like))

    patch.setattr(token_step, "rotary_turns", stand_still)


def what_is_written_becomes(patch, change):
    right = writing_laws.generate
    patch.setattr(writing_laws, "generate", lambda *arguments: [change(new) for new in right(*arguments)])


@mistake("greedy-writing-takes-the-likeliest-token", "new tokens, has")
def one_token_too_many_is_written(patch):
    what_is_written_becomes(patch, lambda new: np.append(new, new[-1]))


@mistake("greedy-writing-takes-the-likeliest-token", "new tokens, has")
def one_token_too_few_is_written(patch):
    what_is_written_becomes(patch, lambda new: new[:-1])


@mistake("a-row-writes-by-its-own-dice", "of row")
def rows_exchange_their_dice(patch):
    right = Sampler.choose
    patch.setattr(Sampler, "choose", lambda self, logits, draws: right(self, logits, draws[::-1]))


@mistake("without-freedom-sampling-is-greedy", "tokens should be")
def one_token_more_is_kept(patch):
    right = Sampler.probabilities

    def probabilities(self, logits):
        return right(dataclasses.replace(self, top_k=self.top_k + 1 if self.top_k else None), logits)

    patch.setattr(Sampler, "probabilities", probabilities)


@mistake("cutting-the-tail-keeps-the-ratios", "probabilities of row 0 should be")
def what_is_cut_is_lost(patch):
    right = sampling._nucleus
    patch.setattr(sampling, "_nucleus", lambda p, top_p: p * (right(p, top_p) > 0))


@pytest.mark.parametrize(("law", "names", "spoil"), MISTAKES)
def test_the_law_catches_a_mistake(law, names, spoil, monkeypatch):
    spoil(monkeypatch)
    verdict = run(LAWS[law])
    assert verdict.holds is False
    assert names in verdict.counterexample


@pytest.mark.parametrize("op", sorted(OPS))
def test_a_wrong_derivative_is_caught_in_every_op(op, monkeypatch):
    change_rules(monkeypatch, op, doubled)
    verdict = run(LAWS["the-gradient-is-the-slope-in-every-direction"], cases=100)
    assert verdict.holds is False
    assert "the slope should be" in verdict.counterexample


@pytest.mark.parametrize("code", [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF])
def test_the_bytes_of_a_character(code):
    assert runs_laws.utf8(code) == list(chr(code).encode())


def test_every_law_has_a_mistake():
    assert {law for law, _, _ in (mistake.values for mistake in MISTAKES)} == {law.name for law in OWN}
