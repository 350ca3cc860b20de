"""Linear layers with a low-rank update, W + s · B A. A and B receive gradients; a frozen W does not.

Matrix products are associative, so there are two ways to compute h = x Wᵀ + s x Aᵀ Bᵀ. Beyond x Wᵀ, they cost:

        x Wᵀ + s (x Aᵀ) Bᵀ      2 r (in + out) operations per token, and another pass over h
        x (W + s · B A)ᵀ        2 r · in · out operations per call; h and the gradient of x then take one matmul each

The second is cheaper with more than in · out / (in + out) tokens, which is typical in training (RunLoRA: Cherniuk et
al. 2023, section 3).
"""

from __future__ import annotations

from typing import Any

from minilora.autograd.operation import op
from minilora.autograd.ops.linear import linear
from minilora.autograd.tensor import Tensor, recording
from minilora.backend import Array


def low_rank_linear(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, scale: float = 1.0) -> Tensor:
    """h = x (W + s · B A)ᵀ, computed in the cheaper of the two ways above; shapes as in `lora_linear`.

    The second way is used only in training. In inference, rounding should not depend on the number of tokens.
    """
    n_out, n_in = weight.shape
    trains = recording() and (A.requires_grad or B.requires_grad)
    if trains and x.size // n_in > n_in * n_out / (n_in + n_out):
        return lora_linear(x, weight, A, B, scale=scale)
    h = linear(x, weight)
    low = linear(x, A) * scale  # (..., in) -> (..., r), the smallest array to scale
    return h + linear(low, B)  # (..., r) -> (..., out)


@op
def lora_linear(x: Array, weight: Array, A: Array, B: Array, scale: float = 1.0) -> Any:
    """h = x (W + s · B A)ᵀ. x is (..., in), W (out, in), A (r, in), B (out, r), h (..., out).

    With g the gradient of h: dx = g (W + s · B A), dA = s (g B)ᵀ x and dB = s gᵀ (x Aᵀ), where g B and x Aᵀ have only r
    values per token. The gradient of W is gᵀ x, a product as large as that of the forward pass. If W is frozen, its
    rule is never called.
    """
    n_out, n_in = weight.shape
    if x.shape[-1] != n_in or A.shape[1] != n_in or B.shape != (n_out, len(A)):
        raise ValueError(
            f"lora_linear() expects x (..., in), W (out, in), A (r, in) and B (out, r), got {x.shape}, {weight.shape}, "
            f"{A.shape} and {B.shape}"
        )
    rows = x.reshape(-1, n_in)  # (..., in) -> (tokens, in)
    scaled = B * scale

    def adapted() -> Array:
        """W + ΔW. Recomputed in the backward pass, because keeping it would double the memory of the weights."""
        total = scaled @ A
        total += weight
        return total

    return (rows @ adapted().T).reshape(*x.shape[:-1], n_out), (
        lambda g: (g.reshape(-1, n_out) @ adapted()).reshape(x.shape),
        lambda g: g.reshape(-1, n_out).T @ rows,
        lambda g: (g.reshape(-1, n_out) @ scaled).T @ rows,
        lambda g: (g.reshape(-1, n_out).T @ (rows @ A.T)) * scale,
    )
