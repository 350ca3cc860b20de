"""Laws of one adapter on one layer: what LoRA is, how it begins, how it learns, what its scale means."""

from __future__ import annotations

import numpy as np

from minilora.laws.case import Case
from minilora.laws.guard import copied
from minilora.laws.law import EXACT, law, rounding
from minilora.laws.layer import Layer, draw_adapter, draw_inputs, draw_weight

HU = "Hu et al. 2021 (LoRA)"


@law("lora", "h = W x + (α/r) B A x", f"{HU}, section 4.1, eq. 3")
def the_update_is_BA_scaled_by_alpha_over_r(case: Case, layer: Layer) -> None:
    """An adapted layer adds a product of two thin matrices, scaled by α/r, to what it computed before."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    case.equal("h", layer(W, *adapter).forward(x), x @ (W + adapter.delta).T)


@law("lora", "h(x) = h(x)", "a layer outside training is a function", bound=EXACT)
def the_same_input_gives_the_same_output(case: Case, layer: Layer) -> None:
    """Outside training nothing is left to chance: dropout is off, and no call changes the next."""
    W = draw_weight(case)
    adapted, x = layer(W, *draw_adapter(case, W)), draw_inputs(case, W, tokens=3)
    case.same("h, computed again", adapted.forward(x), adapted.forward(x))


@law("lora", "x ← x,  g ← g", "a function does not change its argument", bound=EXACT)
def a_call_leaves_its_inputs_alone(case: Case, layer: Layer) -> None:
    """The arrays that a layer is called with belong to the caller."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    adapted, given = layer.unguarded(W.copy(), *copied(adapter)), x.copy()
    adapted.forward(given)
    case.same("x after forward", given, x)
    if hasattr(adapted, "gradients"):
        g = case.array("g", len(x), len(W))
        given_g = g.copy()
        adapted.gradients(given, given_g)
        case.same("x after gradients", given, x)
        case.same("g after gradients", given_g, g)


@law("lora", "x float32  ⇒  h float32", "one precision throughout", bound=EXACT)
def the_dtype_stays(case: Case, layer: Layer) -> None:
    """What goes in as float32 comes out as float32: a scale that is float64 would double the memory."""
    W = draw_weight(case)
    h = layer(W, *draw_adapter(case, W)).forward(draw_inputs(case, W))
    case.true(f"h should be {case.dtype}, is {h.dtype}", h.dtype == case.dtype)


@law("lora", "h₁ does not depend on layer 2", "no shared state", bound=EXACT)
def a_second_layer_changes_nothing(case: Case, layer: Layer) -> None:
    """Layers do not share what they hold: making and using another one changes no bit."""
    W = draw_weight(case)
    adapted, x = layer(W, *draw_adapter(case, W)), draw_inputs(case, W)
    before = adapted.forward(x)
    layer(case.array("W of the second", *W.shape), *draw_adapter(case, W, " of the second")).forward(x)
    case.same("h", adapted.forward(x), before)


@law("lora", "B = 0  ⇒  h = W x", f"{HU}, section 4.1")
def zero_B_is_the_identity(case: Case, layer: Layer) -> None:
    """An adapter whose B is zero changes nothing."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    case.equal("h", layer(W, A, 0 * B, alpha, r).forward(x), x @ W.T)


@law("lora", "h(x, α) - W x = (h(x, 1) - W x) · α", f"{HU}, section 4.1")
def alpha_scales_the_update(case: Case, layer: Layer) -> None:
    """The update is proportional to α: twice the α, twice the update."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    update = layer(W, A, B, 1.0, r).forward(x) - x @ W.T
    case.equal("update", layer(W, A, B, alpha, r).forward(x) - x @ W.T, alpha * update)


@law("lora", "[A; A], [B, B], 2r, α  ≡  A, B, r, α", f"{HU}, section 4.1")
def the_rank_divides_the_scale(case: Case, layer: Layer) -> None:
    """Every factor twice gives twice the product over twice the rank: with the same α, the same update."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    twice = layer(W, np.concatenate([A, A]), np.concatenate([B, B], axis=1), alpha, 2 * r)
    case.equal("h", twice.forward(x), layer(W, A, B, alpha, r).forward(x))


@law("lora", "[A; 0], [B, 0], 2r, 2α  ≡  A, B, r, α", f"{HU}, section 4.1")
def with_alpha_over_r_fixed_the_rank_does_not_scale(case: Case, layer: Layer) -> None:
    """Rank that is not used changes nothing as long as α/r stays."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    padded = layer(W, np.concatenate([A, 0 * A]), np.concatenate([B, 0 * B], axis=1), 2 * alpha, 2 * r)
    case.equal("h", padded.forward(x), layer(W, A, B, alpha, r).forward(x))


@law("lora", "h = W x + (α/√r) B A x", "Kalajdzievski 2023 (rsLoRA), section 3", needs=("rslora",))
def rslora_divides_by_the_root_of_the_rank(case: Case, layer: Layer) -> None:
    """Rank-stabilised LoRA scales by α/√r, which keeps the update's size when the rank grows."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    case.equal("h", layer.rslora(W, A, B, alpha, r).forward(x), x @ W.T + alpha / r**0.5 * (x @ A.T) @ B.T)


@law("lora", "(A, B)  ≡  (M A, B M⁻¹)", "from B M⁻¹ M A = B A")
def the_gauge_changes_nothing(case: Case, layer: Layer) -> None:
    """A and B are not unique: any invertible M between them leaves the layer as it is."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    Q = np.linalg.qr(case.rng.standard_normal((r, r)))[0]
    sizes = case.rng.uniform(0.5, 2, r)  # M = Q diag(sizes), so M⁻¹ = diag(1/sizes) Qᵀ
    M = case.note("M", (Q * sizes).astype(case.dtype))
    inverse = (Q.T / sizes[:, None]).astype(case.dtype)
    case.equal("h", layer(W, M @ A, B @ inverse, alpha, r).forward(x), layer(W, A, B, alpha, r).forward(x))


@law("lora", "σᵢ(ΔW) = 0 for i > r", f"{HU}, section 4.1", bound=rounding(1e-12, 2e-5))
def the_update_has_rank_at_most_r(case: Case, layer: Layer) -> None:
    """ΔW has at most r singular values that are not zero: that is all that r limits."""
    W = draw_weight(case, most=8)
    adapter = draw_adapter(case, W)
    unit = np.eye(W.shape[1], dtype=case.dtype)
    update = layer(W, *adapter).forward(unit).T.astype(np.float64) - W  # what it does to the unit vectors
    values = np.linalg.svd(update, compute_uv=False) / max(1.0, float(np.abs(adapter.delta).max()))
    case.equal("singular values of ΔW after the r-th", values[adapter.r :], 0 * values[adapter.r :])


@law("lora", "parameters = r (in + out)", f"{HU}, section 4.2", bound=EXACT, needs=("trainable",))
def the_parameters_are_r_times_in_plus_out(case: Case, layer: Layer) -> None:
    """An adapter trains r (in + out) numbers instead of in · out."""
    W = draw_weight(case, most=20)
    adapter = draw_adapter(case, W)
    trained = sum(np.size(array) for array in layer(W, *adapter).trainable())
    case.equal("number of trained parameters", trained, adapter.r * sum(W.shape))


@law("lora", "h(a x + y) = a h(x) + h(y)", "from h = (W + ΔW) x")
def the_layer_is_linear(case: Case, layer: Layer) -> None:
    """A linear layer stays linear: there is nothing between A and B."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    a, y = case.number("a"), case.array("y", *x.shape)
    adapted = layer(W, *adapter)
    together = (a * x + y).astype(case.dtype)
    case.equal("h(a x + y)", adapted.forward(together), a * adapted.forward(x) + adapted.forward(y))


@law("lora", "h(x)[i] = h(x[i])", "from h = (W + ΔW) x")
def tokens_are_independent(case: Case, layer: Layer) -> None:
    """What a token becomes does not depend on the tokens beside it."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W, tokens=3)
    adapted = layer(W, *adapter)
    alone = np.concatenate([adapted.forward(x[i : i + 1]) for i in range(len(x))])
    case.equal("h", adapted.forward(x), alone)


@law("lora", "h₀ = W x", f"{HU}, section 4.1: ΔW = BA is zero at the beginning of training", needs=("fresh",))
def a_fresh_adapter_is_the_identity(case: Case, layer: Layer) -> None:
    """Before training, the adapted layer computes what it computed without an adapter."""
    W = draw_weight(case)
    r, alpha, x = case.size("r", 1, 4), case.number("alpha", positive=True), draw_inputs(case, W)
    case.equal("h", layer.fresh(W, r, alpha, case.rng).forward(x), x @ W.T)


@law("lora", "A₀ = 0, rank(B₀) full;  or the reverse", f"{HU}, section 4.1", needs=("fresh", "A", "B"))
def a_fresh_adapter_can_learn(case: Case, layer: Layer) -> None:
    """One factor begins at zero, the other at random and of full rank: so a gradient comes through, in r directions."""
    W = draw_weight(case)
    r = case.size("r", 1, 4)
    layers = [layer.fresh(W, r, 1.0, case.rng) for _ in range(2)]
    (drawn, zero), (other, _) = (sorted([x.A, x.B], key=lambda M: -np.abs(M).max()) for x in layers)
    case.true("one of A and B should be zero, and the other not", bool(np.any(drawn) and not np.any(zero)))
    values = np.linalg.svd(drawn, compute_uv=False)
    case.true(f"the drawn factor should have full rank, has singular values {values}", values[-1] > 1e-5 * values[0])
    case.true("two fresh layers are drawn alike", not np.array_equal(drawn, other))


@law("lora", "rms(A₀) ≤ 2/√in, for any r", "PEFT 0.21.2's default; He et al. 2015, section 2.2", needs=("fresh", "A"))
def a_fresh_A_is_scaled_by_its_inputs(case: Case, layer: Layer) -> None:
    """Unless asked otherwise, A begins with entries of the order of 1/√in; by 1/√r it would be far too large."""
    n_in, r = 64 * case.size("in / 64", 1, 4), case.size("r", 1, 8)
    A = layer.fresh(case.array("W", 2, n_in), r, 1.0, case.rng).A
    rms = float(np.sqrt(np.mean(np.square(A))))
    case.at_most("rms(A) √in", rms * n_in**0.5, 2)


@law("lora", "B = 0  ⇒  ∂L/∂A = 0", f"{HU}, section 4.1, differentiated", bound=EXACT, needs=("gradients",))
def at_init_A_gets_no_gradient(case: Case, layer: Layer) -> None:
    """While B is zero, no gradient reaches A: the first step moves B alone."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    got = layer(W, A, 0 * B, alpha, r).gradients(x, case.array("g", len(x), len(W)))
    case.equal("∂L/∂A", got["A"], 0 * A)


@law("lora", "B = 0  ⇒  ∂L/∂B = s G Aᵀ,  G = Σ g xᵀ", f"{HU}, section 4.1, differentiated", needs=("gradients",))
def at_init_the_gradient_of_B_is_that_of_W_seen_through_A(case: Case, layer: Layer) -> None:
    """The first step of B is the full gradient, summed over tokens, projected onto the rows of A."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    g = case.array("g", len(x), len(W))
    got = layer(W, A, 0 * B, alpha, r).gradients(x, g)
    case.equal("∂L/∂B", got["B"], alpha / r * (g.T @ x) @ A.T)


@law("lora", "A = 0, B = 0  ⇒  ∂L/∂A = 0, ∂L/∂B = 0", "from the product rule", bound=EXACT, needs=("gradients",))
def with_A_and_B_zero_nothing_is_ever_learned(case: Case, layer: Layer) -> None:
    """Zero times zero is a saddle point: both gradients vanish, so one of the factors has to begin elsewhere."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    got = layer(W, 0 * A, 0 * B, alpha, r).gradients(x, case.array("g", len(x), len(W)))
    case.equal("∂L/∂A", got["A"], 0 * A)
    case.equal("∂L/∂B", got["B"], 0 * B)


@law("lora", "∂L/∂A = s Bᵀ G,  ∂L/∂B = s G Aᵀ,  G = Σ g xᵀ = ∂L/∂(ΔW)", "chain rule", needs=("gradients",))
def the_gradients_are_projections_of_the_full_gradient(case: Case, layer: Layer) -> None:
    """A and B see the gradient of ΔW through each other."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    g = case.array("g", len(x), len(W))
    got, G = layer(W, A, B, alpha, r).gradients(x, g), g.T @ x
    case.equal("∂L/∂A", got["A"], alpha / r * B.T @ G)
    case.equal("∂L/∂B", got["B"], alpha / r * G @ A.T)


@law("lora", "∂L/∂x = (W + s B A)ᵀ g", "chain rule", needs=("gradients",))
def the_gradient_of_x_comes_through_both_paths(case: Case, layer: Layer) -> None:
    """Layers below learn through the frozen weight as well as through the adapter."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    g = case.array("g", len(x), len(W))
    case.equal("∂L/∂x", layer(W, *adapter).gradients(x, g)["x"], g @ (W + adapter.delta))


@law("lora", "∂L/∂W is not formed", f"{HU}, section 4.2", bound=EXACT, needs=("gradients",))
def the_frozen_weight_gets_no_gradient(case: Case, layer: Layer) -> None:
    """No gradient comes back for W, as large as W itself: this is where LoRA saves memory."""
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
    """Training changes the two factors, both from the same place, and leaves the frozen weight bit for bit."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    g, lr = case.array("g", len(x), len(W)), case.number("lr", positive=True)
    adapted = layer(W.copy(), *adapter)
    gradients = adapted.gradients(x, g)
    adapted.step(x, g, lr)
    if not np.array_equal(adapted.weight, W):
        case.true(f"W should keep every bit of {W.tolist()}, is {np.asarray(adapted.weight).tolist()}", False)
    case.equal("A", adapted.A, adapter.A - lr * gradients["A"])
    case.equal("B", adapted.B, adapter.B - lr * gradients["B"])


@law("lora", "step: h = W x + s B' A' x", f"{HU}, section 4.1", needs=("step", "A", "B"))
def after_a_step_the_layer_computes_with_its_new_factors(case: Case, layer: Layer) -> None:
    """Nothing of the update is kept from before a step."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    adapted = layer(W, *adapter)
    adapted.forward(x)
    adapted.step(x, case.array("g", len(x), len(W)), 0.1)
    update = adapter.alpha / adapter.r * (adapted.B @ adapted.A)
    case.equal("h", adapted.forward(x), x @ (W + update).T)


@law(
    "lora",
    "one input: h - W x is 0, or s B A x / (1 - p)",
    "Srivastava et al. 2014, section 4; PEFT's LoraConfig.lora_dropout",
    needs=("forward_in_training",),
)
def dropout_acts_on_the_input_of_A_alone(case: Case, layer: Layer) -> None:
    """Dropout zeroes an input of the adapter's path, for all outputs together; the frozen path never misses one."""
    W = case.array("W", case.size("out", 1, 6), 1)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W, tokens=20)
    p = case.choice("p", [0.5, 0.25, 0.75])
    update = layer(W, *adapter).forward_in_training(x, p, case.rng) - x @ W.T  # (tokens, out)
    kept = np.abs(update).max(axis=1, keepdims=True) > 1e-3 * np.abs(x @ adapter.delta.T).max(axis=1, keepdims=True)
    case.equal("update", update, np.where(kept, x @ adapter.delta.T / (1 - p), 0))


@law("lora", "A = B = 1:  h - W x = dropout(x)", "Srivastava et al. 2014, section 4", needs=("forward_in_training",))
def dropout_draws_for_each_input_alone(case: Case, layer: Layer) -> None:
    """Inputs of one token are dropped independently of each other."""
    n, p = case.size("in", 2, 6), case.choice("p", [0.5, 0.25, 0.75])
    W, one = case.array("W", n, n), np.eye(n, dtype=case.dtype)
    x = draw_inputs(case, W, tokens=60)
    h = layer(W, one, one, float(n), n).forward_in_training(x, p, case.rng) - x @ W.T
    kept = np.abs(h) > 0.5 * np.abs(x)
    case.equal("dropout(x)", h, np.where(kept, x / (1 - p), 0))
    case.true("all inputs of a token are dropped together", bool(np.any(kept.any(axis=1) & ~kept.all(axis=1))))


@law("lora", "E[dropout(x)] = x", "Srivastava et al. 2014, section 10", needs=("forward_in_training",))
def dropout_is_unbiased(case: Case, layer: Layer) -> None:
    """An input is kept with probability 1 - p and then divided by 1 - p, so that the mean is as without dropout."""
    n, p = 4000, case.choice("p", [0.5, 0.25, 0.75])
    one = np.ones((1, 1), dtype=case.dtype)
    adapted = layer(0 * one, one, one, 1.0, 1)  # h = dropout(x)
    h = adapted.forward_in_training(np.ones((n, 1), dtype=case.dtype), p, case.rng)
    kept = h != 0
    case.equal("what is kept", h[kept], np.full(kept.sum(), 1 / (1 - p)))
    deviations = abs(kept.sum() - n * (1 - p)) / (n * p * (1 - p)) ** 0.5
    case.at_most("standard deviations of the number kept", float(deviations), 6)
