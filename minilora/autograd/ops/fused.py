"""Fused ops: several steps in one op, with the derivative worked out by hand.

Each is equivalent to a composition of the basic ops (the tests check values and gradients), but makes fewer passes over
memory. Outside the matrix products, memory bandwidth limits the speed of a training step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd.operation import op
from minilora.autograd.ops.arithmetic import floating, logistic
from minilora.autograd.ops.linear import as_ids
from minilora.backend import Array, array_module, like


@op
def softmax(x: Array) -> Any:
    """p = e**x / Σ e**x over the last axis.

    dpᵢ/dxⱼ = pᵢ(δᵢⱼ - pⱼ), so dx = p * (g - Σ g p).
    """
    x = floating(x)
    p = x - x.max(axis=-1, keepdims=True)  # avoids overflow; entries of -inf become exactly 0
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)

    def pull(g: Array) -> Array:
        # Where one p is almost 1, g - Σ g p would consist of rounding error. The gradient does not depend on a constant
        # added to g, so g is first shifted to be 0 at the largest p.
        shifted = g - np.take_along_axis(g, p.argmax(axis=-1)[..., None], axis=-1)
        return p * (shifted - np.sum(shifted * p, axis=-1, keepdims=True))

    return p, (pull,)


@op
def cross_entropy(logits: Array, targets: Any) -> Any:
    """Mean of -log softmax(logits)[target], in nats: a scalar, for logits (..., V) and integer targets (...).

    With p = softmax(logits) and y the one-hot target: d loss / d logits = (p - y) / N for N targets. At a target, p - 1
    is computed as minus the sum of the other probabilities, and so is the loss, as log(1 + Σ others) where the target
    has the largest logit: neither loses accuracy where p is almost 1.
    """
    logits, targets = floating(logits), as_ids(targets)
    n_classes = logits.shape[-1]
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"expected targets of shape {logits.shape[:-1]}, one per logit row, got {targets.shape}")
    if targets.size == 0 or targets.min() < 0 or targets.max() >= n_classes:
        raise ValueError(f"expected at least one target, each from 0 to {n_classes - 1}")
    chosen = array_module(logits).arange(targets.size), targets.reshape(-1)
    p = logits.reshape(-1, n_classes) - logits.reshape(-1, n_classes).max(axis=-1, keepdims=True)  # (N, V)
    at_target = p[chosen]
    np.exp(p, out=p)
    likelihood = p[chosen]  # of the target, unnormalized; 1 if it has the largest logit
    p[chosen] = 0
    others = p.sum(axis=-1)
    total = others + likelihood
    loss = np.mean(np.where(at_target == 0, np.log1p(others), np.log(total) - at_target))
    p /= total[:, None]
    p[chosen] = -others / total  # p - y

    def pull(g: Array) -> Array:
        return (p * (g / targets.size)).reshape(logits.shape)

    return loss, (pull,)


@op
def rms_norm(x: Array, weight: Array, eps: float = 1e-6) -> Any:
    """y = w * x / √(mean(x²) + ε) over the last axis (Zhang & Sennrich 2019, eq. 4).

    With r = 1/√(mean(x²) + ε), x̂ = r x and u = g w:  dx = r (u - x̂ mean(u x̂)),  dw = Σ over rows of g x̂.
    """
    x, width = floating(x), x.shape[-1]
    r = _inverse_rms(x, eps)
    normed = x * r  # x̂

    def pull_x(g: Array) -> Array:
        u = g * weight
        u -= normed * (_row_dots(u, normed) / width)
        u *= r
        return u

    def pull_weight(g: Array) -> Array:
        return np.einsum("nc,nc->c", g.reshape(-1, width), normed.reshape(-1, width))

    return normed * weight, (pull_x, pull_weight)


def _inverse_rms(x: Array, eps: float) -> Array:
    """1/√(mean(x²) + ε) over the last axis, kept with length 1, also where x² overflows or underflows."""
    with np.errstate(over="ignore"):
        squares = _row_dots(x, x) / x.shape[-1] + eps
    if squares.size == 0 or (squares.max() < np.inf and squares.min() > np.finfo(x.dtype).tiny):
        return 1 / np.sqrt(squares)
    largest = np.abs(x).max(axis=-1, keepdims=True)
    scale = np.where((largest > 0) & (largest < np.inf), largest, 1)
    scaled = x / scale
    return 1 / np.sqrt(_row_dots(scaled, scaled) / x.shape[-1] + (float(eps) ** 0.5 / scale) ** 2) / scale


@op
def silu_gate(gate: Array, up: Array) -> Any:
    """silu(gate) * up, the gating step of SwiGLU (Shazeer 2020). With s = sigmoid(gate):

    d gate = g up s (1 + gate (1 - s)),  d up = g gate s.
    """
    if gate.shape != up.shape:
        raise ValueError(f"silu_gate() expects `gate` and `up` of the same shape, got {gate.shape} and {up.shape}")
    gate, up = floating(gate), floating(up)
    s = logistic(gate)
    activated = gate * s

    def pull_gate(g: Array) -> Array:
        slope = 1 - s  # becomes s + gate s (1 - s)
        slope *= activated
        slope += s
        slope *= up
        slope *= g
        return slope

    return activated * up, (pull_gate, lambda g: g * activated)


@op
def rotary(x: Array, cos: Array, sin: Array) -> Any:
    """Rotate each pair (xᵢ, xᵢ₊ₕ) of the 2h features of a head by the angle of its position (Su et al. 2021, eq. 34).

    x is (B, T, H, 2h); cos and sin are (T, 1, h), broadcast over batch and heads. As in Hugging Face's Llama, the first
    half of the features is paired with the second half. The transpose of a rotation is its inverse, so the gradient is
    rotated by the opposite angle.

    Both halves are computed at once, as [x₁ | x₂] * [cos | cos] + [x₂ | x₁] * [-sin | sin], over long contiguous runs
    of memory.
    """
    h = cos.shape[-1]
    if x.shape[-1] != 2 * h:
        raise ValueError(f"rotary() expects {2 * h} features for angles of shape {cos.shape}, got x of shape {x.shape}")
    cosines = np.concatenate([cos, cos], axis=-1) + np.zeros_like(x[0])  # (T, 1, 2h) -> (T, H, 2h)
    sines = np.concatenate([-sin, sin], axis=-1) + np.zeros_like(x[0])

    def turn(v: Array, sines: Array) -> Array:
        swapped = np.concatenate([v[..., h:], v[..., :h]], axis=-1)
        swapped *= sines
        swapped += v * cosines
        return swapped

    return turn(x, sines), (lambda g: turn(g, -sines),)


@op
def dropout(x: Array, probability: float, rng: np.random.Generator) -> Any:
    """Zero each entry with probability p and divide the rest by 1 - p, which preserves the mean (inverted dropout)."""
    kept = like(np.asarray(rng.random(x.shape, dtype=np.float32) >= probability), x)
    scale = kept.astype(x.dtype) / (1 - probability)
    return x * scale, (lambda g: g * scale,)


def _row_dots(x: Array, y: Array) -> Array:
    """Σ x y over the last axis, which is kept as an axis of length 1, without a temporary array as large as x."""
    return np.einsum("...c,...c->...", x, y)[..., None]
