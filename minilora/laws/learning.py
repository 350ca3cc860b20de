"""Laws of the initialization and training of one adapter: fresh factors, gradients, steps, dropout."""

from __future__ import annotations

import numpy as np

from minilora.laws.kit.case import Case
from minilora.laws.kit.law import EXACT, law
from minilora.laws.kit.layer import Layer, draw_adapter, draw_inputs, draw_weight
from minilora.laws.lora import HU


@law("lora", "h₀ = W x", f"{HU}, section 4.1: ΔW = BA is zero at the beginning of training", needs=("fresh",))
def a_fresh_adapter_is_the_identity(case: Case, layer: Layer) -> None:
    """Before training, the adapted layer gives the same output as the base layer."""
    W = draw_weight(case)
    r, alpha, x = case.size("r", 1, 4), case.number("alpha", positive=True), draw_inputs(case, W)
    case.equal("h", layer.fresh(W, r, alpha, case.rng).forward(x), x @ W.T)


@law("lora", "A₀ = 0, rank(B₀) full;  or the reverse", f"{HU}, section 4.1", needs=("fresh", "A", "B"))
def a_fresh_adapter_can_learn(case: Case, layer: Layer) -> None:
    """One factor starts at zero, the other random and of full rank, so that a gradient flows in r directions."""
    W = draw_weight(case)
    r = case.size("r", 1, 4)
    layers = [layer.fresh(W, r, 1.0, case.rng) for _ in range(2)]
    (drawn, zero), (other, _) = (sorted([x.A, x.B], key=lambda M: -np.abs(M).max()) for x in layers)
    case.true("one of A and B should be zero and the other nonzero", bool(np.any(drawn) and not np.any(zero)))
    values = np.linalg.svd(drawn, compute_uv=False)
    case.true(f"the random factor should have full rank, got singular values {values}", values[-1] > 1e-5 * values[0])
    case.true("two fresh layers have the same random factor", not np.array_equal(drawn, other))


def another_size_of_A(case: Case, layer: Layer) -> None:
    """The scale of the initial A is a convention: other implementations use a standard deviation of 0.02, or 1/r."""
    A = layer.fresh(case.array("W", 2, 64 * case.size("in / 64", 1, 4)), case.size("r", 1, 8), 1.0, case.rng).A
    case.true("the initial A should be finite", bool(np.isfinite(A).all()))


@law(
    "lora",
    "rms(A₀) ≤ 2/√in, for any r",
    "PEFT 0.21.2's default; He et al. 2015, section 2.2",
    needs=("fresh", "A"),
    convention=another_size_of_A,
)
def a_fresh_A_is_scaled_by_its_inputs(case: Case, layer: Layer) -> None:
    """By default, the initial entries of A are of the order of 1/√in; with 1/√r they would be far too large."""
    n_in, r = 64 * case.size("in / 64", 1, 4), case.size("r", 1, 8)
    A = layer.fresh(case.array("W", 2, n_in), r, 1.0, case.rng).A
    rms = float(np.sqrt(np.mean(np.square(A))))
    case.at_most("rms(A) √in", rms * n_in**0.5, 2)


@law("lora", "B = 0  ⇒  ∂L/∂A = 0", f"{HU}, section 4.1, differentiated", bound=EXACT, needs=("gradients",))
def at_init_A_gets_no_gradient(case: Case, layer: Layer) -> None:
    """While B is zero, the gradient of A is zero: the first step changes only B."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    got = layer(W, A, np.zeros_like(B), alpha, r).gradients(x, case.array("g", len(x), len(W)))
    case.equal("∂L/∂A", got["A"], np.zeros_like(A))


@law("lora", "B = 0  ⇒  ∂L/∂B = s G Aᵀ,  G = Σ g xᵀ", f"{HU}, section 4.1, differentiated", needs=("gradients",))
def at_init_the_gradient_of_B_is_that_of_W_seen_through_A(case: Case, layer: Layer) -> None:
    """The initial gradient of B is the gradient of ΔW, summed over tokens, projected onto the rows of A."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    g = case.array("g", len(x), len(W))
    got = layer(W, A, np.zeros_like(B), alpha, r).gradients(x, g)
    case.equal("∂L/∂B", got["B"], alpha / r * (g.T @ x) @ A.T)


@law("lora", "A = 0, B = 0  ⇒  ∂L/∂A = 0, ∂L/∂B = 0", "from the product rule", bound=EXACT, needs=("gradients",))
def with_A_and_B_zero_nothing_is_ever_learned(case: Case, layer: Layer) -> None:
    """A = B = 0 is a saddle point: both gradients vanish, so one of the factors must start at nonzero values."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    got = layer(W, np.zeros_like(A), np.zeros_like(B), alpha, r).gradients(x, case.array("g", len(x), len(W)))
    case.equal("∂L/∂A", got["A"], np.zeros_like(A))
    case.equal("∂L/∂B", got["B"], np.zeros_like(B))


@law("lora", "∂L/∂A = s Bᵀ G,  ∂L/∂B = s G Aᵀ,  G = Σ g xᵀ = ∂L/∂(ΔW)", "chain rule", needs=("gradients",))
def the_gradients_are_projections_of_the_full_gradient(case: Case, layer: Layer) -> None:
    """The gradient of each factor is the gradient of ΔW multiplied by the other factor."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    g = case.array("g", len(x), len(W))
    got, G = layer(W, A, B, alpha, r).gradients(x, g), g.T @ x
    case.equal("∂L/∂A", got["A"], alpha / r * B.T @ G)
    case.equal("∂L/∂B", got["B"], alpha / r * G @ A.T)


@law("lora", "∂L/∂x = (W + s B A)ᵀ g", "chain rule", needs=("gradients",))
def the_gradient_of_x_comes_through_both_paths(case: Case, layer: Layer) -> None:
    """The layers below receive gradients through the frozen weight as well as through the adapter."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    g = case.array("g", len(x), len(W))
    case.equal("∂L/∂x", layer(W, *adapter).gradients(x, g)["x"], g @ (W + adapter.delta))


@law("lora", "∂L/∂W is not computed", f"{HU}, section 4.2", bound=EXACT, needs=("gradients",))
def the_frozen_weight_gets_no_gradient(case: Case, layer: Layer) -> None:
    """No gradient is computed for W. It would be as large as W itself: this is how LoRA saves memory."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    got = layer(W, *adapter).gradients(x, case.array("g", len(x), len(W)))
    case.true("W has a gradient", got.get("W") is None)


@law(
    "lora",
    "W ← W,  A ← A - η ∂L/∂A,  B ← B - η ∂L/∂B",
    f"{HU}, section 4.1",
    needs=("step", "gradients", "weight", "A", "B"),
)
def a_step_moves_A_and_B_and_not_one_bit_of_W(case: Case, layer: Layer) -> None:
    """A step updates A and B with gradients at their old values, and leaves W bit-for-bit unchanged."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    g, lr = case.array("g", len(x), len(W)), case.number("lr", positive=True)
    adapted = layer(W.copy(), *adapter)
    gradients = adapted.gradients(x, g)
    adapted.step(x, g, lr)
    if not np.array_equal(adapted.weight, W):
        case.true(f"W should be exactly {W.tolist()}, got {np.asarray(adapted.weight).tolist()}", False)
    case.equal("A", adapted.A, adapter.A - lr * gradients["A"])
    case.equal("B", adapted.B, adapter.B - lr * gradients["B"])


@law("lora", "step: h = W x + s B' A' x", f"{HU}, section 4.1", needs=("step", "A", "B"))
def after_a_step_the_layer_computes_with_its_new_factors(case: Case, layer: Layer) -> None:
    """After a step the output uses the new factors: the layer does not keep a cached update."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    adapted = layer(W, *adapter)
    adapted.forward(x)
    adapted.step(x, case.array("g", len(x), len(W)), 0.1)
    update = adapter.alpha / adapter.r * (adapted.B @ adapted.A)
    case.equal("h", adapted.forward(x), x @ (W + update).T)


def dropout_after_A(case: Case, layer: Layer) -> None:
    """The position of dropout is a convention: other implementations zero entries of A x instead of entries of x."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W, r=1), draw_inputs(case, W, tokens=20)
    p = case.choice("p", [0.5, 0.25, 0.75])
    update = layer(W, *adapter).forward_in_training(x, p, case.rng) - x @ W.T  # (tokens, out)
    full = x @ adapter.delta.T
    kept = np.abs(update).max(axis=1, keepdims=True) > 1e-3 * np.abs(full).max(axis=1, keepdims=True)
    case.equal("update", update, np.where(kept, full / (1 - p), 0))


@law(
    "lora",
    "in = 1:  h - W x is 0, or s B A x / (1 - p)",
    "Srivastava et al. 2014, section 4; PEFT's LoraConfig.lora_dropout",
    needs=("forward_in_training",),
    convention=dropout_after_A,
)
def dropout_acts_on_the_input_of_A_alone(case: Case, layer: Layer) -> None:
    """Dropout zeroes inputs of the adapter path, for all outputs together; the frozen path gets every input."""
    W = case.array("W", case.size("out", 1, 6), 1)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W, tokens=20)
    p = case.choice("p", [0.5, 0.25, 0.75])
    update = layer(W, *adapter).forward_in_training(x, p, case.rng) - x @ W.T  # (tokens, out)
    kept = np.abs(update).max(axis=1, keepdims=True) > 1e-3 * np.abs(x @ adapter.delta.T).max(axis=1, keepdims=True)
    case.equal("update", update, np.where(kept, x @ adapter.delta.T / (1 - p), 0))


@law("lora", "A = B = 1:  h - W x = dropout(x)", "Srivastava et al. 2014, section 4", needs=("forward_in_training",))
def dropout_draws_for_each_input_alone(case: Case, layer: Layer) -> None:
    """The input features of a token are dropped independently of each other."""
    n, p = case.size("in", 2, 6), case.choice("p", [0.5, 0.25, 0.75])
    W, one = case.array("W", n, n), np.eye(n, dtype=case.dtype)
    x = draw_inputs(case, W, tokens=60)
    h = layer(W, one, one, float(n), n).forward_in_training(x, p, case.rng) - x @ W.T
    kept = np.abs(h) > 0.5 * np.abs(x)
    case.equal("dropout(x)", h, np.where(kept, x / (1 - p), 0))
    case.true("all input features of a token are dropped together", bool(np.any(kept.any(axis=1) & ~kept.all(axis=1))))


@law("lora", "E[dropout(x)] = x", "Srivastava et al. 2014, section 10", needs=("forward_in_training",))
def dropout_is_unbiased(case: Case, layer: Layer) -> None:
    """An input is kept with probability 1 - p and then divided by 1 - p, so that its mean is unchanged."""
    n, p = 4000, case.choice("p", [0.5, 0.25, 0.75])
    one = np.ones((1, 1), dtype=case.dtype)
    adapted = layer(0 * one, one, one, 1.0, 1)  # h = dropout(x)
    h = adapted.forward_in_training(np.ones((n, 1), dtype=case.dtype), p, case.rng)
    kept = h != 0
    case.equal("the inputs kept", h[kept], np.full(kept.sum(), 1 / (1 - p)))
    deviations = abs(kept.sum() - n * (1 - p)) / (n * p * (1 - p)) ** 0.5
    case.at_most("the deviation of the number of inputs kept, in standard deviations,", float(deviations), 6)
