"""Laws of generation: the tokens that a model generates, and how each token is chosen."""

from __future__ import annotations

import numpy as np

from minilora.backend import Array
from minilora.generation import Sampler, generate
from minilora.laws.kit.case import Case
from minilora.laws.kit.law import EXACT, law, rounding
from minilora.laws.model import WHOLE_MODEL, draw_model, logits

FLOAT64 = rounding(1e-12, 1e-12)
"""The bound for probabilities: they are computed in float64, whatever the dtype of the logits."""


def draw_generated_texts(case: Case, sampler: Sampler) -> list[tuple[Array, Array, Array]]:
    """Continue prompts of different lengths in one batch, with a cache.

    Returns for each prompt the new tokens, the logits (tokens, V) that they should be chosen from, computed in one pass
    without a batch or cache, and the uniform random numbers (tokens,).
    """
    model, seed = draw_model(case), int(case.rng.integers(1000))
    rows, tokens = case.size("rows", 1, 3), case.size("tokens", 1, 5)
    V = model.config.vocab_size
    prompts = [case.note(f"prompt {i}", case.rng.integers(0, V, case.rng.integers(1, 6))) for i in range(rows)]
    written = generate(model, prompts, tokens, sampler, seed)
    found = []
    for i, (prompt, new) in enumerate(zip(prompts, written, strict=True)):
        case.true(f"row {i} should have {tokens} new tokens, got {len(new)}", len(new) == tokens)
        scores = logits(model, np.concatenate([prompt, new])[None])[0, len(prompt) - 1 : -1]
        found.append((new, scores, np.random.default_rng([seed, i]).random(tokens)))
    return found


@law("runs", "xₜ = argmax z(x[:t])", "definition of greedy decoding", bound=WHOLE_MODEL)
def greedy_writing_takes_the_likeliest_token(case: Case) -> None:
    """Greedy decoding takes the most likely token, which does not depend on the cache or on the other rows."""
    for i, (new, scores, _) in enumerate(draw_generated_texts(case, Sampler(temperature=0))):
        chosen = np.take_along_axis(scores, new[:, None], axis=1)[:, 0]
        case.equal(f"logits of the tokens in row {i}", chosen, scores.max(axis=1))


@law("runs", "F(x - 1) ≤ u < F(x),  F = Σ softmax(z/τ)", "inversion; Devroye 1986, chapter III", bound=WHOLE_MODEL)
def a_row_writes_by_its_own_dice(case: Case) -> None:
    """The random number lies in the chosen token's interval of the cumulative distribution; each row draws its own."""
    temperature = case.choice("temperature", [1.0, 0.5, 2.0])
    for i, (new, scores, draws) in enumerate(draw_generated_texts(case, Sampler(temperature))):
        p = np.exp(scores.astype(np.float64) / temperature)
        ends = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1)
        for t, (x, u) in enumerate(zip(new, draws, strict=True)):
            case.at_most(f"the start of the interval of token {t} in row {i}", ends[t, x - 1] if x else 0.0, u)
            case.at_most(f"the random number for token {t} in row {i}", u, ends[t, x])


def draw_scores(case: Case) -> Array:
    """Draw logits (rows, V) that differ by more than 1/2 within a row."""
    rows, V = case.size("rows", 1, 3), case.size("vocabulary", 2, 8)
    order = case.rng.permuted(np.tile(np.arange(V), (rows, 1)), axis=1)
    return case.note("logits", (order + case.rng.uniform(0, 0.5, (rows, V))).astype(case.dtype))


@law("runs", "τ → 0, or k = 1, or p → 0:  x = argmax z", "limit of softmax(z/τ)", bound=EXACT)
def without_freedom_sampling_is_greedy(case: Case) -> None:
    """Near temperature 0, or with one candidate, the most likely token is chosen for any random number."""
    scores, hot = draw_scores(case), case.number("temperature", positive=True)
    samplers = [Sampler(0), Sampler(1e-3), Sampler(1e-9), Sampler(hot, top_k=1), Sampler(hot, top_p=1e-9)]
    chosen = case.choice("sampler", samplers).choose(scores, case.note("random numbers", case.rng.random(len(scores))))
    case.equal("tokens", chosen, scores.argmax(axis=1))


@law(
    "runs",
    "p'ᵢ = pᵢ / Σ kept;  k most likely, then fewest with sum ≥ p",
    "Fan et al. 2018; Holtzman et al. 2020",
    bound=FLOAT64,
)
def cutting_the_tail_keeps_the_ratios(case: Case) -> None:
    """Top-k and top-p keep only the most likely tokens and renormalize, which preserves their probability ratios."""
    scores, temperature = draw_scores(case), case.number("temperature", positive=True)
    k, top_p = case.choice("top_k", [None, 1, 2, 5, 9]), case.choice("top_p", [None, 0.3, 0.7, 1.0])
    found = Sampler(temperature, k, top_p).probabilities(scores)
    for row, z in enumerate(scores.astype(np.float64)):
        p = np.exp(z / temperature - z.max() / temperature)
        p[np.argsort(-z)[k or len(z) :]] = 0
        p /= p.sum()
        order, enough = np.argsort(-p), top_p or 1.0
        kept = next((n for n in range(1, len(p)) if p[order[:n]].sum() >= enough), len(p))
        p[order[kept:]] = 0
        case.equal(f"probabilities of row {row}", found[row], p / p.sum())
