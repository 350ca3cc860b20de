"""LoRA: a frozen Linear, and a trainable low-rank path beside it. The file that minilora is about.

        h = W x  +  s · B A x            W (out, in) frozen;  A (r, in) and B (out, r) trained;  s = α/r

Fine-tuning changes W by some ΔW. LoRA's bet (Hu et al. 2021, section 4.1) is that a ΔW of low rank r is enough, so
it trains the two thin factors of ΔW = s · B A: r (in + out) numbers instead of in · out. B starts at zero, so the
adapted model starts as the base. The layer that adds the path to W x is in `adapters/host.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minilora.adapters.update import Factors, Update
from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.nn import Linear


class LoraUpdate(Update):
    """u(x) = s · B A x, with s = `scaling`."""

    lora_A: Tensor  # (r, in)
    lora_B: Tensor  # (out, r)

    def __init__(self, tensors: Mapping[str, Tensor], scaling: float, dropout: float = 0.0) -> None:
        super().__init__(tensors, dropout)
        self.scaling = scaling

    def factors(self, base: Linear) -> Factors | None:
        return Factors(self.lora_A, self.lora_B, self.scaling)


def draw_A(r: int, n_in: int, init: bool | str, rng: np.random.Generator) -> Array:
    """A (r, in), uniform in ±1/√in, independent of r (PyTorch's `kaiming_uniform_` with a = √5).

    With `init` "gaussian" it is normal with standard deviation 1/r.
    """
    if init == "gaussian":
        return rng.standard_normal((r, n_in)) / r
    return rng.uniform(-1, 1, (r, n_in)) / n_in**0.5


def draw_B(n_out: int, r: int, init: bool | str, rng: np.random.Generator) -> Array:
    """B (out, r), zero, so that ΔW starts at zero. (If A were zero as well, both gradients would stay zero.)

    With `init` False it is uniform in ±1/√r, so that ΔW is not zero.
    """
    if init is False:
        return rng.uniform(-1, 1, (n_out, r)) / r**0.5
    return np.zeros((n_out, r))
