"""LoRA: a trainable low-rank update of a frozen Linear layer.

        h = W x  +  s · B A x            W (out, in) is frozen;  A (r, in) and B (out, r) are trained;  s = α/r

Fine-tuning changes W to W + ΔW. LoRA (Hu et al. 2021, section 4.1) assumes that a ΔW of low rank r is sufficient, and
trains the two factors of ΔW = s · B A: r (in + out) parameters instead of in · out. B is initialized to zero, so the
adapted model starts with the same output as the base model. The layer that adds s · B A x to W x is in
`adapters/host.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minilora.adapters.update import Factors, Update
from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.nn import Linear


class LoraUpdate(Update):
    """The LoRA update u(x) = s · B A x, where s is `scaling`."""

    lora_A: Tensor  # (r, in)
    lora_B: Tensor  # (out, r)

    def __init__(self, tensors: Mapping[str, Tensor], scaling: float, dropout: float = 0.0) -> None:
        super().__init__(tensors, dropout)
        self.scaling = scaling

    def factors(self, base: Linear) -> Factors | None:
        return Factors(self.lora_A, self.lora_B, self.scaling)


def draw_A(r: int, n_in: int, init: bool | str, rng: np.random.Generator) -> Array:
    """Return initial values for A (r, in): uniform in ±1/√in for any r, as in PyTorch's `kaiming_uniform_` with a = √5.

    If `init` is "gaussian", they are normally distributed with mean 0 and standard deviation 1/r.
    """
    if init == "gaussian":
        return rng.standard_normal((r, n_in)) / r
    return rng.uniform(-1, 1, (r, n_in)) / n_in**0.5


def draw_B(n_out: int, r: int, init: bool | str, rng: np.random.Generator) -> Array:
    """Return initial values for B (out, r): zero, so that ΔW is zero at the start.

    A must not be zero as well: with G = ∂L/∂(ΔW), the gradients are ∂L/∂A = s Bᵀ G and ∂L/∂B = s G Aᵀ, so both would
    stay zero. If `init` is False, B is uniform in ±1/√r, so that ΔW is not zero.
    """
    if init is False:
        return rng.uniform(-1, 1, (n_out, r)) / r**0.5
    return np.zeros((n_out, r))
