"""The product with W + s · B A in one op, as LoRA trains with: B and A learn, and nothing is computed for a frozen W.

Matrix products are associative, so there are two ways to h = x Wᵀ + s x Aᵀ Bᵀ. Through r numbers a token, (x Aᵀ) Bᵀ
takes 2 r (in + out) operations for each token and passes over h once more. By way of ΔW = s · B A, which takes
2 r · in · out operations once, h is a single product with W + ΔW, and so is dx. When there are many tokens, as in
training, the second is cheaper (RunLoRA: Cherniuk et al. 2023, section 3); this op is the second.
"""

from __future__ import annotations

from typing import Any

from minilora.autograd.tensor import Array, op


@op
def lora_linear(x: Array, weight: Array, A: Array, B: Array, scale: float = 1.0) -> Any:
    """h = x (W + s · B A)ᵀ. x is (..., in), W (out, in), A (r, in), B (out, r), h (..., out).

    With g arriving at h: dx = g (W + s · B A), dA = s (g B)ᵀ x and dB = s gᵀ (x Aᵀ), through r numbers a token. That
    of W would be gᵀ x, as large a product as the forward one: where W is frozen, it is not called for.
    """
    n_out, n_in = weight.shape
    if x.shape[-1] != n_in or A.shape[1] != n_in or B.shape != (n_out, len(A)):
        raise ValueError(
            f"lora_linear expects x (..., in), W (out, in), A (r, in) and B (out, r), got {x.shape}, {weight.shape}, "
            f"{A.shape} and {B.shape}"
        )
    rows = x.reshape(-1, n_in)  # (..., in) -> (tokens, in)
    scaled = B * scale
    adapted = scaled @ A
    adapted += weight
    h = (rows @ adapted.T).reshape(*x.shape[:-1], n_out)
    return h, (
        lambda g: (g.reshape(-1, n_out) @ adapted).reshape(x.shape),
        lambda g: g.reshape(-1, n_out).T @ rows,
        lambda g: (g.reshape(-1, n_out) @ scaled).T @ rows,
        lambda g: (g.reshape(-1, n_out).T @ (rows @ A.T)) * scale,
    )
