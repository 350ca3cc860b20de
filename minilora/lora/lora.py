"""LoRA: a Linear that stays as it is, and a low-rank path beside it that learns. The file that minilora is about.

        h = W x  +  s · B A x            W (out, in) frozen;  A (r, in) and B (out, r) trained;  s = α/r

Fine-tuning changes W by some ΔW. LoRA's bet (Hu et al. 2021, section 4.1) is that a ΔW of low rank r is enough, so
it trains the two thin factors of ΔW = s · B A: r (in + out) numbers instead of in · out. B begins at zero, so the
adapted model begins as the model it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minilora.adapters.update import Factors, Update
from minilora.autograd.tensor import Tensor
from minilora.backend import Array


class LoraUpdate(Update):
    """u(x) = s · B A x, with s = `scaling`."""

    lora_A: Tensor  # (r, in)
    lora_B: Tensor  # (out, r)

    def __init__(self, tensors: Mapping[str, Tensor], scaling: float, dropout: float = 0.0) -> None:
        super().__init__(tensors, dropout)
        self.scaling = scaling

    def factors(self) -> Factors | None:
        return Factors(self.lora_A, self.lora_B, self.scaling)


def draw_A(r: int, n_in: int, init: bool | str, rng: np.random.Generator) -> Array:
    """A (r, in), uniform in ±1/√in whatever r: Kaiming's bound with a = √5. "gaussian": normal, of deviation 1/r."""
    if init == "gaussian":
        return rng.standard_normal((r, n_in)) / r
    return rng.uniform(-1, 1, (r, n_in)) / n_in**0.5


def draw_B(n_out: int, r: int, init: bool | str, rng: np.random.Generator) -> Array:
    """B (out, r), zero, so that ΔW begins at zero. (Were A zero as well, no gradient would ever reach either.)

    With `init` False it is uniform in ±1/√r, so that the adapter acts at once.
    """
    if init is False:
        return rng.uniform(-1, 1, (n_out, r)) / r**0.5
    return np.zeros((n_out, r))
