"""Laws of merging an adapter into the weight, and of unmerging it."""

from __future__ import annotations

import numpy as np

from minilora.laws.kit.case import Case
from minilora.laws.kit.law import EXACT, law
from minilora.laws.kit.layer import Layer, draw_adapter, draw_adapters, draw_inputs, draw_weight

HU = "Hu et al. 2021 (LoRA), section 4.1"


@law("merge", "x (W + s B A)ᵀ = x Wᵀ + s (x Aᵀ) Bᵀ", f"{HU}: no additional inference latency", needs=("merge",))
def merging_changes_no_output(case: Case, layer: Layer) -> None:
    """The merged weight gives the same output as the base path and the adapter path together."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    adapted = layer(W, *adapter)
    apart = adapted.forward(x)
    adapted.merge()
    case.equal("h after merging", adapted.forward(x), apart)


@law("merge", "W' = W + (α/r) B A", HU, needs=("merge", "weight"))
def the_merged_weight_is_W_plus_the_update(case: Case, layer: Layer) -> None:
    """Merging adds s·BA to the weight, scaled once and not transposed."""
    W = draw_weight(case)
    adapter = draw_adapter(case, W)
    adapted = layer(W, *adapter)
    adapted.merge()
    case.equal("merged weight", adapted.weight, W + adapter.delta)


@law("merge", "merge ∘ merge = merge", "idempotence", bound=EXACT, needs=("merge", "weight"))
def merging_twice_is_merging_once(case: Case, layer: Layer) -> None:
    """Merging a merged layer does not change its weight."""
    W = draw_weight(case)
    adapted = layer(W, *draw_adapter(case, W))
    adapted.merge()
    once = np.array(adapted.weight)
    adapted.merge()
    case.same("weight after merging again", adapted.weight, once)


@law(
    "merge",
    "unmerge ∘ merge = identity",
    "W is kept, not recovered by subtraction",
    bound=EXACT,
    needs=("merge", "unmerge", "weight"),
)
def unmerging_restores_every_bit(case: Case, layer: Layer) -> None:
    """After any sequence of merges and unmerges, unmerging restores W exactly; (W + ΔW) - ΔW has a rounding error."""
    W = draw_weight(case)
    adapted = layer(W, *draw_adapter(case, W))
    for merge in case.note("merges", [bool(b) for b in case.rng.integers(0, 2, case.size("length", 0, 5))]):
        adapted.merge() if merge else adapted.unmerge()
    adapted.merge()
    adapted.unmerge()
    case.same("weight after unmerging", adapted.weight, W)


@law("merge", "h before = h after merge, unmerge", HU, bound=EXACT, needs=("merge", "unmerge"))
def after_unmerging_the_adapter_acts_as_before(case: Case, layer: Layer) -> None:
    """Unmerging restores the separate adapter path, so that the update is counted once."""
    W = draw_weight(case)
    adapted, x = layer(W, *draw_adapter(case, W)), draw_inputs(case, W)
    before = adapted.forward(x)
    adapted.merge()
    adapted.unmerge()
    case.same("h", adapted.forward(x), before)


@law("merge", "merge: W ← W', A ← A, B ← B", HU, bound=EXACT, needs=("merge", "A", "B"))
def merging_leaves_A_and_B_alone(case: Case, layer: Layer) -> None:
    """Merging changes the weight and does not modify the factors."""
    W = draw_weight(case)
    adapter = draw_adapter(case, W)
    adapted = layer(W, *adapter)
    adapted.merge()
    case.same("A", adapted.A, adapter.A)
    case.same("B", adapted.B, adapter.B)


@law("merge", "step, merge: W' = W + s B' A'", HU, needs=("merge", "unmerge", "weight", "step", "A", "B"))
def merging_after_a_step_merges_the_new_factors(case: Case, layer: Layer) -> None:
    """Merging uses the current values of A and B, whatever was merged before."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    adapted = layer(W, *adapter)
    adapted.merge()
    adapted.unmerge()
    adapted.step(x, case.array("g", len(x), len(W)), 0.1)
    adapted.merge()
    case.equal("merged weight", adapted.weight, W + adapter.alpha / adapter.r * (adapted.B @ adapted.A))


@law("merge", "parameters(merged) = in · out", HU, needs=("merge_and_unload",))
def a_merged_layer_has_no_more_parameters(case: Case, layer: Layer) -> None:
    """A permanently merged layer is a plain layer: one matrix of W's shape and no other parameters."""
    W = draw_weight(case)
    adapter = draw_adapter(case, W)
    arrays = layer(W, *adapter).merge_and_unload()
    case.equal("number of arrays", len(arrays), 1)
    case.equal("weight", arrays[0], W + adapter.delta)


@law("merge", "W' = W + Σ λᵢ sᵢ Bᵢ Aᵢ", HU, needs=("merge", "weight", "many", "set_active"))
def merging_several_adds_them_up(case: Case, layer: Layer) -> None:
    """Merging several adapters adds all their updates to the weight, each times its strength."""
    W = draw_weight(case)
    adapters, strengths = draw_adapters(case, W)
    adapted = layer.many(W, adapters)
    adapted.set_active(strengths)
    adapted.merge()
    updates = [strength * adapters[name].delta for name, strength in strengths.items()]
    case.equal("merged weight", adapted.weight, W + np.sum(updates, axis=0))


@law("merge", "W' = W", HU, bound=EXACT, needs=("merge", "weight", "many", "set_active"))
def merging_no_adapter_changes_no_bit(case: Case, layer: Layer) -> None:
    """With no adapter active, merging leaves the weight bit-for-bit unchanged."""
    W = draw_weight(case)
    adapted = layer.many(W, draw_adapters(case, W)[0])
    adapted.set_active({})
    adapted.merge()
    case.same("weight", adapted.weight, W)


@law(
    "merge",
    "(unmerge ∘ merge)ⁿ = identity",
    HU,
    bound=EXACT,
    needs=("merge", "unmerge", "weight", "many", "set_active"),
)
def swapping_adapters_by_merging_leaves_no_trace(case: Case, layer: Layer) -> None:
    """However often adapters are merged, unmerged and swapped for others, W is restored bit for bit."""
    W = draw_weight(case)
    adapters, _ = draw_adapters(case, W)
    adapted = layer.many(W, adapters)
    for name in case.note("order", [str(name) for name in case.rng.choice(list(adapters), case.size("swaps", 1, 6))]):
        adapted.set_active({name: 1.0})
        adapted.merge()
        adapted.unmerge()
    case.same("weight", adapted.weight, W)
