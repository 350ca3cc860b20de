"""Laws of several adapters on one layer: adding, switching, mixing, and a different adapter for each row."""

from __future__ import annotations

import itertools

import numpy as np

from minilora.laws.kit.case import Case
from minilora.laws.kit.law import EXACT, law, rounding
from minilora.laws.kit.layer import Adapter, Layer, draw_adapter, draw_adapters, draw_inputs, draw_weight, update_of

HU = "Hu et al. 2021 (LoRA), section 4.1"
PEFT = "PEFT 0.21.2, add_weighted_adapter"
PUNICA = "Chen et al. 2023 (Punica), section 4; Sheng et al. 2023 (S-LoRA), section 5"
ACTIVE, MIX, ROWS = ("many", "set_active"), ("many", "set_active", "mix"), ("many", "forward_rows")


@law("many", "h = W x + Σ λᵢ sᵢ Bᵢ Aᵢ x", HU, needs=ACTIVE)
def active_adapters_add_up(case: Case, layer: Layer) -> None:
    """The updates of all active adapters add up, each times its strength."""
    W = draw_weight(case)
    (adapters, strengths), x = draw_adapters(case, W), draw_inputs(case, W)
    adapted = layer.many(W, adapters)
    adapted.set_active(strengths)
    updates = [strength * adapters[name].delta for name, strength in strengths.items()]
    case.equal("h", adapted.forward(x), x @ (W + np.sum(updates, axis=0)).T)


@law("many", "h(λ) - W x = λ (h(1) - W x)", HU, needs=ACTIVE)
def the_update_is_linear_in_the_strength(case: Case, layer: Layer) -> None:
    """The update is proportional to the strength: zero at 0, complete at 1, and likewise outside this range."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    adapted, strength = layer.many(W, {"a": adapter}), case.number("strength")
    adapted.set_active({"a": 1.0})
    full = adapted.forward(x) - x @ W.T
    adapted.set_active({"a": strength})
    case.equal("update", adapted.forward(x) - x @ W.T, strength * full)
    adapted.set_active({"a": 0.0})
    case.equal("h at strength 0", adapted.forward(x), x @ W.T)


@law("many", "Σ in any order", "addition is commutative", needs=ACTIVE)
def the_order_of_adapters_does_not_matter(case: Case, layer: Layer) -> None:
    """The output does not depend on the order in which adapters are attached or activated."""
    W = draw_weight(case)
    (adapters, strengths), x = draw_adapters(case, W), draw_inputs(case, W)
    results = []
    for turn in (1, -1):
        adapted = layer.many(W, dict(list(adapters.items())[::turn]))
        adapted.set_active(dict(list(strengths.items())[::turn]))
        results.append(adapted.forward(x))
    case.equal("h in the other order", results[1], results[0])


@law("many", "i not active  ⇒  h does not depend on Aᵢ, Bᵢ", HU, needs=ACTIVE)
def an_inactive_adapter_does_nothing(case: Case, layer: Layer) -> None:
    """An adapter that is attached but not active does not change the output."""
    W = draw_weight(case)
    (adapters, _), x = draw_adapters(case, W), draw_inputs(case, W)
    first = next(iter(adapters))
    among, alone = layer.many(W, adapters), layer.many(W, {first: adapters[first]})
    for adapted in (among, alone):
        adapted.set_active({first: 1.0})
    case.equal("h", among.forward(x), alone.forward(x))


@law("many", "no λᵢ  ⇒  h = W x", HU, needs=ACTIVE)
def with_none_active_the_layer_is_the_base(case: Case, layer: Layer) -> None:
    """With no adapter active, the layer gives the output of the base."""
    W = draw_weight(case)
    (adapters, strengths), x = draw_adapters(case, W), draw_inputs(case, W)
    adapted = layer.many(W, adapters)
    adapted.set_active(strengths)
    adapted.set_active({})
    case.equal("h", adapted.forward(x), x @ W.T)


@law("many", "h depends only on the last selection", "no hidden state", bound=EXACT, needs=ACTIVE)
def switching_leaves_no_trace(case: Case, layer: Layer) -> None:
    """After any sequence of switches, the output is bit-for-bit identical to that of a new layer."""
    W = draw_weight(case)
    (adapters, strengths), x = draw_adapters(case, W), draw_inputs(case, W)
    adapted, fresh = layer.many(W, adapters), layer.many(W, adapters)
    for name in case.note("switches", [str(n) for n in case.rng.choice(list(adapters), case.size("length", 1, 5))]):
        adapted.set_active({name: case.number(f"intermediate strength of {name}")})
        adapted.forward(x)
    for choice in (strengths, {"b": strengths["b"]}):
        adapted.set_active(choice)
        fresh.set_active(choice)
        case.same(f"h with {', '.join(choice)} active", adapted.forward(x), fresh.forward(x))


@law("many", "ΔW = Σ wᵢ sᵢ Bᵢ Aᵢ", f"{PEFT}, cat", needs=MIX)
def mixing_by_cat_is_exact(case: Case, layer: Layer) -> None:
    """The product of factors concatenated along the rank is the weighted sum of the updates."""
    W = draw_weight(case)
    adapters, weights = draw_adapters(case, W)
    mixed = layer.many(W, adapters)
    mixed.mix(weights, "cat")
    want = np.sum([w * adapters[name].delta for name, w in weights.items()], axis=0)
    case.equal("ΔW", update_of(mixed, W.shape[1], case.dtype), want)
    mixed.set_active({"a": 1.0})
    case.equal("ΔW of adapter a after mixing", update_of(mixed, W.shape[1], case.dtype), adapters["a"].delta)


@law("many", "ΔW = Σᵢⱼ √|wᵢsᵢ| √|wⱼsⱼ| sign(wⱼ) Bᵢ Aⱼ", f"{PEFT}, linear", needs=MIX)
def mixing_by_linear_carries_the_cross_terms(case: Case, layer: Layer) -> None:
    """Adding the A's and the B's, each times √|w s|, also multiplies every B by every other A; the signs multiply A."""
    W = draw_weight(case)
    adapters, weights = draw_adapters(case, W, equal_ranks=True)
    mixed = layer.many(W, adapters)
    mixed.mix(weights, "linear")
    scales = {name: w * adapters[name].alpha / adapters[name].r for name, w in weights.items()}
    want = np.zeros_like(W)
    for i, j in itertools.product(weights, weights):
        root = (abs(scales[i]) * abs(scales[j])) ** 0.5 * np.sign(scales[j])
        want += root * adapters[i].B @ adapters[j].A
    case.equal("ΔW", update_of(mixed, W.shape[1], case.dtype), want)


@law("many", "min over rank r of ‖Σ wᵢΔWᵢ - X‖²  =  Σ σᵢ², i > r", "Eckart & Young 1936", rounding(1e-11, 2e-5), MIX)
def mixing_by_svd_is_the_best_of_its_rank(case: Case, layer: Layer) -> None:
    """The mixture has rank r and the smallest distance from the weighted sum that a matrix of rank r can have."""
    W = draw_weight(case)
    adapters, weights = draw_adapters(case, W)
    r = case.size("r", 1, min(W.shape))
    mixed = layer.many(W, adapters)
    mixed.mix(weights, "svd", r)
    exact = np.sum([w * adapters[name].delta for name, w in weights.items()], axis=0).astype(np.float64)
    update = update_of(mixed, W.shape[1], case.dtype).astype(np.float64)
    values = np.linalg.svd(exact, compute_uv=False)
    scale = max(1.0, float(values[0]))
    left = np.linalg.svd(update, compute_uv=False)[r:] / scale
    case.equal("singular values of ΔW after the r-th", left, 0 * left)
    case.equal("distance", np.linalg.norm(exact - update) / scale, np.linalg.norm(values[r:]) / scale)
    for _ in range(3):  # the closest B for a random A is closer than any other B with the same A
        A = case.rng.standard_normal((r, W.shape[1]))
        nearest = exact @ np.linalg.pinv(A) @ A
        distances = [float(np.linalg.norm(exact - X)) / scale for X in (update, nearest)]
        case.at_most("distance, compared with a random matrix of rank r,", *distances)


@law("many", "h[i] = W x[i] + s B A x[i], with row i's adapter", PUNICA, needs=(*ROWS, "set_active"))
def a_mixed_batch_equals_its_single_runs(case: Case, layer: Layer) -> None:
    """Each row of a batch has the same output as if it were run alone with its adapter."""
    W = draw_weight(case)
    adapters, _ = draw_adapters(case, W)
    x, names = _draw_rows(case, W, adapters)
    mixed = layer.many(W, adapters)
    mixed.set_active({"b": 1.0})  # forward_rows ignores the active adapter and leaves it unchanged
    before, batched, after = mixed.forward(x[0]), mixed.forward_rows(x, names), mixed.forward(x[0])
    case.same("h with the active adapter afterwards", after, before)
    for i, name in enumerate(names):
        single = layer.many(W, adapters)
        single.set_active({name: 1.0} if name else {})
        case.equal(f"row {i} ({name or 'base'})", batched[i], single.forward(x[i]))


@law("many", "P h(x, names) = h(P x, P names)", PUNICA, needs=ROWS)
def permuting_rows_with_their_adapters_permutes_the_output(case: Case, layer: Layer) -> None:
    """The output for a row and its adapter does not depend on the row's position in the batch."""
    W = draw_weight(case)
    adapters, _ = draw_adapters(case, W)
    x, names = _draw_rows(case, W, adapters)
    order = case.note("order", [int(i) for i in case.rng.permutation(len(names))])
    adapted = layer.many(W, adapters)
    moved = adapted.forward_rows(x[order], [names[i] for i in order])
    case.equal("h", moved, adapted.forward_rows(x, names)[order])


@law("many", "names[i] = None  ⇒  h[i] = W x[i]", PUNICA, needs=ROWS)
def a_row_without_adapter_is_the_base(case: Case, layer: Layer) -> None:
    """In a mixed batch, a row without an adapter has the output of the base."""
    W = draw_weight(case)
    adapters, _ = draw_adapters(case, W)
    x, names = _draw_rows(case, W, adapters)
    names[0] = None
    case.equal("row 0", layer.many(W, adapters).forward_rows(x, names)[0], x[0] @ W.T)


@law("many", "[A; 0], [B, 0], α r'/r  ≡  A, B, α", PUNICA, needs=ROWS)
def padding_a_rank_with_zeros_changes_no_row(case: Case, layer: Layer) -> None:
    """Padding adapters with zeros to a common rank, so that they can share a batch, does not change the output."""
    W = draw_weight(case)
    adapters, _ = draw_adapters(case, W)
    x, names = _draw_rows(case, W, adapters)
    rank = 1 + max(adapter.r for adapter in adapters.values())
    padded = {name: _padded(adapter, rank) for name, adapter in adapters.items()}
    case.equal("h", layer.many(W, padded).forward_rows(x, names), layer.many(W, adapters).forward_rows(x, names))


def _draw_rows(case: Case, W: np.ndarray, adapters: dict[str, Adapter]) -> tuple[np.ndarray, list[str | None]]:
    """Draw inputs (batch, tokens, in), and an adapter name or None for each row."""
    batch = case.size("batch", 1, 5)
    x = case.array("x", batch, case.size("tokens", 1, 2), W.shape[1])
    choices = [*adapters, None]
    return x, case.note("names", [choices[i] for i in case.rng.integers(0, len(choices), batch)])


def _padded(adapter: Adapter, rank: int) -> Adapter:
    """The same update, with factors padded with zeros to a larger rank; α grows with r, so that α/r stays the same."""
    missing = rank - adapter.r
    A, B = np.pad(adapter.A, ((0, missing), (0, 0))), np.pad(adapter.B, ((0, 0), (0, missing)))
    return Adapter(A, B, adapter.alpha * rank / adapter.r, rank)
