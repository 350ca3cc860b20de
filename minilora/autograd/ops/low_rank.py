"""The product with W + s · B A in one op, for training with LoRA: A and B get gradients, a frozen W gets none.

Matrix products are associative, so there are two ways to h = x Wᵀ + s x Aᵀ Bᵀ. The first, (x Aᵀ) Bᵀ, takes
2 r (in + out) operations per token, and one more pass over h. The second forms ΔW = s · B A once, with 2 r · in · out
operations; then h is a single product with W + ΔW, and so is dx. It is cheaper with more than in · out / (in + out)
tokens, as there are in training (RunLoRA: Cherniuk et al. 2023, section 3). This op is the second.
"""

from __future__ import annotations

from typing import Any

from minilora.autograd.tensor import Array, op


@op
def lora_linear(x: Array, weight: Array, A: Array, B: Array, scale: float = 1.0) -> Any:
    """h = x (W + s · B A)ᵀ. x is (..., in), W (out, in), A (r, in), B (out, r), h (..., out).

    With g arriving at h: dx = g (W + s · B A), dA = s (g B)ᵀ x and dB = s gᵀ (x Aᵀ), through r numbers per token. The
    gradient of W would be gᵀ x, as large a product as the forward one; where W is frozen, its rule is never called.
    """
    n_out, n_in = weight.shape
    if x.shape[-1] != n_in or A.shape[1] != n_in or B.shape != (n_out, len(A)):
        raise ValueError(
            f"lora_linear expects x (..., in), W (out, in), A (r, in) and B (out, r), got {x.shape}, {weight.shape}, "
            f"{A.shape} and {B.shape}"
        )
    rows = x.reshape(-1, n_in)  # (..., in) -> (tokens, in)
    scaled = B * scale

    def adapted() -> Array:
        """W + ΔW: formed twice, which takes little, rather than kept, which would double the weights' memory."""
        total = scaled @ A
        total += weight
        return total

    return (rows @ adapted().T).reshape(*x.shape[:-1], n_out), (
        lambda g: (g.reshape(-1, n_out) @ adapted()).reshape(x.shape),
        lambda g: g.reshape(-1, n_out).T @ rows,
        lambda g: (g.reshape(-1, n_out) @ scaled).T @ rows,
        lambda g: (g.reshape(-1, n_out).T @ (rows @ A.T)) * scale,
    )
