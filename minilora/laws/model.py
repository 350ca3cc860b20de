"""Laws of the model: properties of attention, positions, norms and losses, separately and in the complete model."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd import Tensor, gradients, no_grad, ops
from minilora.backend import Array
from minilora.laws.kit.case import Case
from minilora.laws.kit.functions import pull
from minilora.laws.kit.law import EXACT, law, rounding
from minilora.nn import Llama, LlamaConfig, RMSNorm
from minilora.nn.attention import rotary_tables

CONTEXT = 10
VASWANI = "Vaswani et al. 2017, section 3.2"
SU = "Su et al. 2021 (RoFormer), section 3.2"
ZHANG = "Zhang & Sennrich 2019, section 4"
WHOLE_MODEL = rounding(1e-12, 2e-5)
"""The bound for a complete model: its norms can divide by small values."""


def draw_config(case: Case, **options: Any) -> LlamaConfig:
    """Draw the configuration of a tiny model."""
    heads, groups = case.choice("heads, key heads", [(1, 1), (2, 1), (2, 2), (4, 2)])
    drawn: dict[str, Any] = {
        "vocab_size": case.size("vocabulary", 5, 11),
        "hidden_size": case.choice("width", [4, 8]),
        "intermediate_size": 6,
        "num_hidden_layers": case.size("layers", 1, 2),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": case.choice("D", [2, 4]),
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": case.choice("tied", [True, False]),
    }
    return LlamaConfig(**{**drawn, **options})


def draw_model(case: Case, **options: Any) -> Llama:
    """Draw a tiny model of unit scale: small weights would make attention a plain average and hide mistakes."""
    model = Llama(draw_config(case, **options), rng=None)
    for name, p in model.named_parameters():
        noise = case.rng.standard_normal(p.shape)
        p.data[...] = 1 + 0.3 * noise if "norm" in name else noise if "embed" in name else noise / p.shape[1] ** 0.5
    model.astype(case.dtype)
    return model


def draw_ids(case: Case, model: Llama, least: int = 1) -> Array:
    """Draw token ids (batch, time)."""
    shape = case.size("batch", 1, 3), case.size("time", least, CONTEXT)
    return case.note("ids", case.rng.integers(0, model.config.vocab_size, shape))


def draw_targets(case: Case, model: Llama, ids: Array) -> Array:
    return case.note("targets", case.rng.integers(0, model.config.vocab_size, ids.shape))


@no_grad()
def logits(model: Llama, ids: Array) -> Array:
    return model(ids).data


@law("model", "y[:t] does not depend on ids[t:]", VASWANI, bound=EXACT)
def what_comes_later_changes_nothing_before(case: Case) -> None:
    """The output at a position depends only on the tokens up to it: later ones leave it bit-for-bit unchanged."""
    model = draw_model(case)
    ids = draw_ids(case, model, least=2)
    cut = case.size("positions kept", 1, ids.shape[1] - 1)
    other = ids.copy()
    other[:, cut:] = (other[:, cut:] + 1) % model.config.vocab_size
    case.equal(f"logits of the first {cut} positions", logits(model, other)[:, :cut], logits(model, ids)[:, :cut])


@law("model", "y(ids) = [y(ids[:t]), y(ids[t:] | cache)]", VASWANI, bound=WHOLE_MODEL)
@no_grad()
def a_cache_replaces_the_past(case: Case) -> None:
    """A text processed in two parts with a key-value cache has the same logits as in one pass."""
    model = draw_model(case)
    ids = draw_ids(case, model, least=2)
    cut = case.size("positions before the cut", 1, ids.shape[1] - 1)
    cache = model.new_cache(len(ids))
    parts = [model(ids[:, :cut], cache).data, model(ids[:, cut:], cache).data]
    case.equal("logits", np.concatenate(parts, axis=1), logits(model, ids))


@law("model", "⟨R(m) q, R(n) k⟩ = Re Σⱼ qⱼ k̄ⱼ e^(i (m-n) θⱼ)", f"{SU}.1", bound=rounding(1e-12, 1e-5))
def rotary_scores_depend_on_the_distance_alone(case: Case) -> None:
    """The score of a query and a key depends on the distance between them, not on their positions."""
    config = draw_config(case)
    q, k = case.array("q", config.head_size), case.array("k", config.head_size)
    m, n = case.size("m", 0, 9), case.size("n", 0, 9)
    shift = case.choice("shift of both", [0, 1, 1000])
    score = np.sum(at(shift + m, q, config) * at(shift + n, k, config))
    half = config.head_size // 2
    pairs = (q[:half] + 1j * q[half:]) * np.conj(k[:half] + 1j * k[half:])
    frequencies = config.rope_theta ** (-2 * np.arange(half) / config.head_size)
    case.equal("the score", score, np.sum(pairs * np.exp(1j * (m - n) * frequencies)).real)


@law("model", "|R(m) x|² = |x|²", f"{SU}.2: R is orthogonal")
def rotary_keeps_lengths(case: Case) -> None:
    """Rotary position embeddings rotate a vector and do not change its norm."""
    config = draw_config(case)
    x, position = case.array("x", config.head_size), case.size("position", 0, 1000)
    case.equal("|R(m) x|²", np.sum(at(position, x, config) ** 2), np.sum(x**2))


def at(position: int, x: Array, config: LlamaConfig) -> Array:
    """x (D,) with the rotary embedding for `position` applied."""
    rotations = rotary_tables(config, position, position + 1, x)
    return ops.rotary(Tensor(x.reshape(1, 1, 1, -1)), *rotations).data.reshape(-1)


def draw_norm(case: Case) -> tuple[RMSNorm, Array]:
    """Draw an RMSNorm with ε = 0 and a random gain, and inputs (rows, width) for it."""
    x = case.array("x", case.size("rows", 1, 3), case.size("width", 2, 8))
    norm = RMSNorm(x.shape[1], eps=0.0)
    norm.weight = Tensor(case.array("gain", x.shape[1]))
    return norm, x


@law("model", "ε = 0:  norm(c x) = norm(x), ⟨∂L/∂x, x⟩ = 0", f"{ZHANG}.1", bound=rounding(1e-12, 5e-5))
def rms_norm_forgets_the_scale(case: Case) -> None:
    """Scaling the input does not change the output, so the gradient is orthogonal to the input."""
    norm, x = draw_norm(case)
    c, g = case.number("c", positive=True), case.array("g", *x.shape)
    case.equal("norm(c x)", norm(Tensor((c * x).astype(x.dtype))).data, norm(Tensor(x)).data)
    case.equal("⟨∂L/∂x, x⟩", np.sum(pull(norm, [x], g)[0] * x, axis=-1), np.zeros(len(x)))


@law("model", "ε = 0:  √mean((norm(x) / w)²) = 1", f"{ZHANG}, eq. 4")
def rms_norm_gives_a_root_mean_square_of_one(case: Case) -> None:
    """For any input of any width, the output has a root mean square of 1 before the gain."""
    norm, x = draw_norm(case)
    y = norm(Tensor(x)).data / norm.weight.data
    case.equal("rms of the output", np.sqrt(np.mean(y**2, axis=-1)), np.ones(len(x)))


@law("model", "pᵢ ≥ 0,  Σ pᵢ = 1", "definition of softmax")
def softmax_lies_on_the_simplex(case: Case) -> None:
    """The output of softmax is a probability distribution over the last axis."""
    x = case.array("x", case.size("rows", 1, 3), case.size("width", 1, 8))
    p = ops.softmax(Tensor(x)).data
    case.at_most("the negated smallest probability", float(-p.min()), 0)
    case.equal("the sum of probabilities", p.sum(axis=-1), np.ones(len(x)))


@law("model", "softmax(x + c) = softmax(x)", "e^(x+c) = e^c e^x")
def softmax_forgets_a_shift(case: Case) -> None:
    """Only differences of scores matter: adding ±1000 to all of them does not change the output or overflow."""
    drawn = case.array("x", case.size("rows", 1, 3), case.size("width", 1, 8))
    x, c = np.round(8 * drawn) / 8, case.choice("c", [1, -3, 1000, -1000])  # multiples of 1/8, so that x + c is exact
    case.equal("softmax(x + c)", ops.softmax(Tensor(x + c)).data, ops.softmax(Tensor(x)).data)


@law("model", "∂L/∂z = (p - y) / N", "derivative of log-sum-exp")
def the_gradient_of_cross_entropy_is_p_minus_y(case: Case) -> None:
    """The gradient of the logits is the predicted minus the target distribution, divided by the number of targets."""
    shape = case.size("batch", 1, 2), case.size("time", 1, 3), case.size("vocabulary", 1, 6)
    z, g = case.array("z", *shape), case.number("g")
    targets = case.note("targets", case.rng.integers(0, shape[2], shape[:2]))
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    y = targets[..., None] == np.arange(shape[2])
    (found,) = pull(lambda z: ops.cross_entropy(z, targets), [z], np.asarray(g))
    case.equal("∂L/∂z", found, g * (p - y) / targets.size)


@law("model", "z constant  ⇒  L = log V", "Shannon 1948: the entropy of V equally likely outcomes")
def knowing_nothing_costs_log_V(case: Case) -> None:
    """A model that gives every token the same logit has a loss of log V nats per token on any text."""
    model = draw_model(case)
    ids = draw_ids(case, model)
    model.model.norm.weight.data[...] = 0
    case.equal("the loss", model.loss(ids, draw_targets(case, model, ids)).data, np.log(model.config.vocab_size))


@law("model", "y(ids)[b] = y(ids[b])", "no operation mixes rows", bound=WHOLE_MODEL)
def rows_of_a_batch_do_not_see_each_other(case: Case) -> None:
    """A text has the same logits in a batch as on its own."""
    model = draw_model(case)
    ids = draw_ids(case, model)
    case.equal("logits", logits(model, ids), np.concatenate([logits(model, row[None]) for row in ids]))


@law("model", "y(P ids) = P y(ids)", "no operation mixes rows", bound=WHOLE_MODEL)
def permuting_a_batch_permutes_the_output(case: Case) -> None:
    """The logits of a text do not depend on its position in the batch."""
    model = draw_model(case)
    ids = draw_ids(case, model)
    order = case.note("order", case.rng.permutation(len(ids)))
    case.equal("logits", logits(model, ids[order]), logits(model, ids)[order])


@law("model", "∇L(batch) = mean of ∇L(row)", "sum rule", bound=WHOLE_MODEL)
def the_gradient_of_a_batch_is_the_mean_over_its_rows(case: Case) -> None:
    """Rows of equal length have equal weight, so a batch can be split and the gradients averaged."""
    model = draw_model(case, num_hidden_layers=1)
    ids = draw_ids(case, model)
    targets = draw_targets(case, model, ids)
    names, parameters = zip(*model.named_parameters(), strict=True)
    together = gradients(model.loss(ids, targets), parameters)
    rows = [gradients(model.loss(ids[i : i + 1], targets[i : i + 1]), parameters) for i in range(len(ids))]
    for name, found, *alone in zip(names, together, *rows, strict=True):
        case.equal(f"the gradient of {name}", found, np.mean(alone, axis=0))


@law("model", "min v[:t] ≤ y[t] ≤ max v[:t],  y[0] = v[0]", f"{VASWANI}.1")
def attention_averages_the_values_it_sees(case: Case) -> None:
    """Attention weights are positive and sum to 1, so the output lies in the range of the values seen so far."""
    groups, shape = case.size("key heads", 1, 2), (case.size("time", 1, 6), case.size("D", 1, 3))
    q, k, v = (case.array(name, 1, groups, *shape) for name in "qkv")
    y = ops.causal_attention(Tensor(q), Tensor(k), Tensor(v)).data
    case.equal("the output at the first position", y[:, :, 0], v[:, :, 0])
    above, below = y - np.maximum.accumulate(v, axis=2), np.minimum.accumulate(v, axis=2) - y
    case.at_most("the distance of the output from the values seen", float(np.maximum(above, below).max()), 0)


@law(
    "model",
    "G key heads  ≡  H key heads, each repeated H/G times",
    "Ainslie et al. 2023, section 2.2",
    bound=WHOLE_MODEL,
)
def grouped_heads_are_full_heads_that_repeat(case: Case) -> None:
    """A model whose query heads share key-value heads equals one in which each query head has its own copy."""
    model = draw_model(case, num_attention_heads=4, num_key_value_heads=case.choice("key heads", [2, 1, 4]))
    ids, config = draw_ids(case, model), model.config
    full = Llama(LlamaConfig(**{**vars(config), "num_key_value_heads": 4}), rng=None)
    full.astype(case.dtype)
    state = model.state_dict()
    for name in [name for name in state if "k_proj" in name or "v_proj" in name]:
        heads = state[name].reshape(config.kv_heads, config.head_size, -1)  # (G·D, C) -> (G, D, C)
        repeated = np.repeat(heads, 4 // config.kv_heads, axis=0)
        state[name] = repeated.reshape(-1, config.hidden_size)  # (H, D, C) -> (H·D, C)
    full.load_state_dict(state)
    case.equal("logits", logits(model, ids), logits(full, ids))


@law("model", "∂L/∂E = ∂L/∂E as the embedding + ∂L/∂E as the head", "Press & Wolf 2017", bound=WHOLE_MODEL)
def a_tied_head_learns_in_both_places(case: Case) -> None:
    """An embedding tied to the output head gives the logits of two equal tables, and the sum of their gradients."""
    tied = draw_model(case, tie_word_embeddings=True)
    ids = draw_ids(case, tied)
    targets = draw_targets(case, tied, ids)
    untied = Llama(LlamaConfig(**{**vars(tied.config), "tie_word_embeddings": False}), rng=None)
    untied.astype(case.dtype)
    untied.load_state_dict({**tied.state_dict(), "lm_head.weight": tied.model.embed_tokens.weight.data})
    case.equal("logits", logits(tied, ids), logits(untied, ids))
    (shared,) = gradients(tied.loss(ids, targets), [tied.model.embed_tokens.weight])
    two = gradients(untied.loss(ids, targets), [untied.model.embed_tokens.weight, untied.lm_head.weight])
    case.equal("the gradient of the shared table", shared, two[0] + two[1])


@law("model", "o = 0, down = 0:  z = E_head norm(E[id])", "He et al. 2016: x + f(x)", bound=WHOLE_MODEL)
def without_its_branches_the_stream_passes_through(case: Case) -> None:
    """If attention and MLP output zero, layers are the identity, and a position's logits depend on its token only."""
    model = draw_model(case)
    ids = draw_ids(case, model)
    for name, p in model.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            p.data[...] = 0
    x = model.model.embed_tokens.weight.data[ids]
    normed = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + model.config.rms_norm_eps)
    case.equal("logits", logits(model, ids), normed * model.model.norm.weight.data @ model.lm_head.weight.data.T)
