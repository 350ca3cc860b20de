"""Laws of one adapter on one layer: the LoRA update and its scale. Laws of training are in `learning.py`."""

from __future__ import annotations

import numpy as np

from minilora.laws.kit.case import Case
from minilora.laws.kit.guard import copied
from minilora.laws.kit.law import EXACT, law, rounding
from minilora.laws.kit.layer import Layer, draw_adapter, draw_inputs, draw_weight

HU = "Hu et al. 2021 (LoRA)"


@law("lora", "h = W x + (α/r) B A x", f"{HU}, section 4.1, eq. 3")
def the_update_is_BA_scaled_by_alpha_over_r(case: Case, layer: Layer) -> None:
    """An adapted layer adds (α/r) B A x to the output of the base layer, where A and B are thin matrices."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    case.equal("h", layer(W, *adapter).forward(x), x @ (W + adapter.delta).T)


@law("lora", "h(x) = h(x)", "outside training, a layer is a function of its input", bound=EXACT)
def the_same_input_gives_the_same_output(case: Case, layer: Layer) -> None:
    """Outside training the output is deterministic: dropout is off, and a call does not affect later calls."""
    W = draw_weight(case)
    adapted, x = layer(W, *draw_adapter(case, W)), draw_inputs(case, W, tokens=3)
    case.same("h, computed again", adapted.forward(x), adapted.forward(x))


@law("lora", "x ← x,  g ← g", "a function does not change its arguments", bound=EXACT)
def a_call_leaves_its_inputs_alone(case: Case, layer: Layer) -> None:
    """A layer does not modify the arrays that it is called with."""
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
    """A float32 input gives a float32 output; a float64 scale would promote the output and double its memory."""
    W = draw_weight(case)
    h = layer(W, *draw_adapter(case, W)).forward(draw_inputs(case, W))
    case.true(f"h should be {case.dtype}, got {h.dtype}", h.dtype == case.dtype)


@law("lora", "h₁ does not depend on layer 2", "no shared state", bound=EXACT)
def a_second_layer_changes_nothing(case: Case, layer: Layer) -> None:
    """Layers share no state: creating and using a second layer leaves the first one's output bit-for-bit unchanged."""
    W = draw_weight(case)
    adapted, x = layer(W, *draw_adapter(case, W)), draw_inputs(case, W)
    before = adapted.forward(x)
    layer(case.array("W of layer 2", *W.shape), *draw_adapter(case, W, " of layer 2")).forward(x)
    case.same("h", adapted.forward(x), before)


@law("lora", "B = 0  ⇒  h = W x", f"{HU}, section 4.1")
def zero_B_is_the_identity(case: Case, layer: Layer) -> None:
    """An adapter with B = 0 does not change the output."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    case.equal("h", layer(W, A, np.zeros_like(B), alpha, r).forward(x), x @ W.T)


@law("lora", "h(x, α) - W x = (h(x, 1) - W x) · α", f"{HU}, section 4.1")
def alpha_scales_the_update(case: Case, layer: Layer) -> None:
    """The update is proportional to α: doubling α doubles the update."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    update = layer(W, A, B, 1.0, r).forward(x) - x @ W.T
    case.equal("update", layer(W, A, B, alpha, r).forward(x) - x @ W.T, alpha * update)


@law("lora", "[A; A], [B, B], 2r, α  ≡  A, B, r, α", f"{HU}, section 4.1")
def the_rank_divides_the_scale(case: Case, layer: Layer) -> None:
    """Repeating A and B along the rank doubles both B A and r, so with the same α the update stays the same."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    twice = layer(W, np.concatenate([A, A]), np.concatenate([B, B], axis=1), alpha, 2 * r)
    case.equal("h", twice.forward(x), layer(W, A, B, alpha, r).forward(x))


@law("lora", "[A; 0], [B, 0], 2r, 2α  ≡  A, B, r, α", f"{HU}, section 4.1")
def with_alpha_over_r_fixed_the_rank_does_not_scale(case: Case, layer: Layer) -> None:
    """Padding A and B with zeros to a higher rank changes nothing as long as α/r stays the same."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    padded = layer(
        W, np.concatenate([A, np.zeros_like(A)]), np.concatenate([B, np.zeros_like(B)], axis=1), 2 * alpha, 2 * r
    )
    case.equal("h", padded.forward(x), layer(W, A, B, alpha, r).forward(x))


@law("lora", "h = W x + (α/√r) B A x", "Kalajdzievski 2023 (rsLoRA), section 3", needs=("rslora",))
def rslora_divides_by_the_root_of_the_rank(case: Case, layer: Layer) -> None:
    """Rank-stabilized LoRA scales by α/√r, which keeps the size of the update stable when the rank grows."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    case.equal("h", layer.rslora(W, A, B, alpha, r).forward(x), x @ W.T + alpha / r**0.5 * (x @ A.T) @ B.T)


@law("lora", "(A, B)  ≡  (M A, B M⁻¹)", "from B M⁻¹ M A = B A")
def the_gauge_changes_nothing(case: Case, layer: Layer) -> None:
    """A and B are not unique: inserting any invertible M and its inverse between them does not change the output."""
    W = draw_weight(case)
    (A, B, alpha, r), x = draw_adapter(case, W), draw_inputs(case, W)
    Q = np.linalg.qr(case.rng.standard_normal((r, r)))[0]
    sizes = case.rng.uniform(0.5, 2, r)  # M = Q diag(sizes), so M⁻¹ = diag(1/sizes) Qᵀ
    M = case.note("M", (Q * sizes).astype(case.dtype))
    inverse = (Q.T / sizes[:, None]).astype(case.dtype)
    case.equal("h", layer(W, M @ A, B @ inverse, alpha, r).forward(x), layer(W, A, B, alpha, r).forward(x))


@law("lora", "σᵢ(ΔW) = 0 for i > r", f"{HU}, section 4.1", bound=rounding(1e-12, 2e-5))
def the_update_has_rank_at_most_r(case: Case, layer: Layer) -> None:
    """ΔW has at most r nonzero singular values, and r imposes no other constraint."""
    W = draw_weight(case, most=8)
    adapter = draw_adapter(case, W)
    unit = np.eye(W.shape[1], dtype=case.dtype)
    update = layer(W, *adapter).forward(unit).T.astype(np.float64) - W  # the layer applied to the unit vectors
    values = np.linalg.svd(update, compute_uv=False) / max(1.0, float(np.abs(adapter.delta).max()))
    case.equal("singular values of ΔW after the r-th", values[adapter.r :], 0 * values[adapter.r :])


@law("lora", "parameters = r (in + out)", f"{HU}, section 4.2", bound=EXACT, needs=("trainable",))
def the_parameters_are_r_times_in_plus_out(case: Case, layer: Layer) -> None:
    """An adapter has r (in + out) trainable parameters instead of in · out."""
    W = draw_weight(case, most=20)
    adapter = draw_adapter(case, W)
    trained = sum(np.size(array) for array in layer(W, *adapter).trainable())
    case.equal("number of trainable parameters", trained, adapter.r * sum(W.shape))


@law("lora", "h(a x + y) = a h(x) + h(y)", "from h = (W + ΔW) x")
def the_layer_is_linear(case: Case, layer: Layer) -> None:
    """An adapted linear layer is still linear: there is no nonlinearity between A and B."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W)
    a, y = case.number("a"), case.array("y", *x.shape)
    adapted = layer(W, *adapter)
    together = (a * x + y).astype(case.dtype)
    case.equal("h(a x + y)", adapted.forward(together), a * adapted.forward(x) + adapted.forward(y))


@law("lora", "h(x)[i] = h(x[i])", "from h = (W + ΔW) x")
def tokens_are_independent(case: Case, layer: Layer) -> None:
    """The output for a token does not depend on the other tokens."""
    W = draw_weight(case)
    adapter, x = draw_adapter(case, W), draw_inputs(case, W, tokens=3)
    adapted = layer(W, *adapter)
    alone = np.concatenate([adapted.forward(x[i : i + 1]) for i in range(len(x))])
    case.equal("h", adapted.forward(x), alone)
