"""The basic layers of a Llama: Linear, Embedding and RMSNorm, each a weight and an op."""

from __future__ import annotations

import numpy as np

from minilora.autograd import ops
from minilora.autograd.ops.low_rank import low_rank_linear
from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.nn.module import Module


class Linear(Module):
    """y = x Wᵀ, without a bias. `weight` is (out, in); x is (..., in), y is (..., out).

    A subclass that stores W in a different form overrides `forward` and `dense`.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(in_features={self.in_features}, out_features={self.out_features})"

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight)

    def with_low_rank(self, x: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
        """Return x (W + scale · B A)ᵀ for A (r, in) and B (out, r), in the cheaper order of matrix products."""
        if type(self).forward is not Linear.forward:
            return self(x) + ops.linear(ops.linear(x, A) * scale, B)
        return low_rank_linear(x, self.weight, A, B, scale=scale)

    def dense(self) -> Tensor:
        """Return the full matrix W (out, in)."""
        return self.weight


class Embedding(Module):
    """A table lookup: ids (B, T) select rows of `weight` (vocabulary, C), giving (B, T, C)."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __repr__(self) -> str:
        return f"Embedding{self.weight.shape}"

    def forward(self, ids: Array) -> Tensor:
        return ops.embedding(self.weight, ids)


class RMSNorm(Module):
    """RMS normalization: scale x to a root mean square of 1 over its last axis, then multiply by `weight` (C,)."""

    def __init__(self, size: int, eps: float) -> None:
        self.weight = Tensor(np.ones(size, dtype=np.float32), requires_grad=True)
        self.eps = eps

    def __repr__(self) -> str:
        return f"RMSNorm({self.weight.size}, eps={self.eps:g})"

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self.eps)


def random_weight(rng: np.random.Generator | None, n_out: int, n_in: int, std: float) -> Tensor:
    """Return a trainable float32 matrix (out, in).

    Entries are drawn from a normal distribution with mean 0 and standard deviation `std`, or are zero if `rng` is None.
    """
    if rng is None:
        return Tensor(np.zeros((n_out, n_in), dtype=np.float32), requires_grad=True)
    return Tensor(rng.standard_normal((n_out, n_in), dtype=np.float32) * np.float32(std), requires_grad=True)
