"""LoRA: a Linear that stays as it is, and a low-rank path beside it that learns. The file that minilora is about.

        h = W x  +  s · B A x            W (out, in) frozen;  A (r, in) and B (out, r) trained;  s = α/r

Fine-tuning changes W by some ΔW. LoRA's bet (Hu et al. 2021, section 4.1) is that a ΔW of low rank r is enough, so
it trains the two thin factors of ΔW = s · B A: r (in + out) numbers instead of in · out. B begins at zero, so
the adapted model begins as the model it was. Read `inject.py` next, then `merge.py`.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import ops
from minilora.autograd.tensor import Array, Tensor, recording
from minilora.backend import like
from minilora.lora.config import LoraConfig
from minilora.lora.rows import add_row_updates
from minilora.nn import Linear
from minilora.nn.variants import chosen


class LoraLinear(Linear):
    """A frozen Linear with adapters. Several can be attached; those in `active` act, each with its strength."""

    def __init__(self, base: Linear) -> None:
        super().__init__(base.weight)
        self.lora_A: dict[str, Tensor] = {}  # adapter -> (r, in)
        self.lora_B: dict[str, Tensor] = {}  # adapter -> (out, r)
        self.scaling: dict[str, float] = {}  # adapter -> s
        self.config: dict[str, LoraConfig] = {}
        self.active: dict[str, float] = {}  # adapter -> strength
        self._original: Tensor | None = None  # W, kept while a merged weight stands in its place

    def attach(self, adapter: str, config: LoraConfig, path: str, rng: np.random.Generator) -> None:
        """Add fresh A and B of the rank and scale that `config` gives the module at `path`."""
        r, W = config.rank(path), self.weight.data
        self.lora_A[adapter] = Tensor(like(_draw_A(rng, r, self.in_features, config).astype(W.dtype), W))
        self.lora_B[adapter] = Tensor(like(_draw_B(rng, self.out_features, r, config).astype(W.dtype), W))
        self.scaling[adapter] = config.scaling(path)
        self.config[adapter] = config

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> h (..., out)."""
        if self.merged:
            return super().forward(x)
        rows = chosen()  # by this call, see `rows.py`; usually none are
        if rows is not None and len(rows.distinct) > 1:
            return add_row_updates(super().forward(x), x, self, rows)
        strengths = self.active if rows is None else rows.distinct[0]
        acting = {adapter: s * self.scaling[adapter] for adapter, s in strengths.items() if adapter in self.config}
        if len(acting) == 1 and self._delta_is_cheaper(x, *acting):
            ((adapter, scale),) = acting.items()
            return ops.lora_linear(x, self.weight, self.lora_A[adapter], self.lora_B[adapter], scale=scale)
        h = super().forward(x)
        for adapter, scale in acting.items():
            h = h + self._update(x, adapter, scale)
        return h

    def _delta_is_cheaper(self, x: Tensor, adapter: str) -> bool:
        """Whether a training step forms ΔW after all, because of its many tokens: see `ops/low_rank.py`."""
        trains = recording() and self.lora_A[adapter].requires_grad and not self._drops(adapter)
        break_even = self.in_features * self.out_features / (self.in_features + self.out_features)
        return trains and x.size // self.in_features > break_even

    def _drops(self, adapter: str) -> bool:
        """Whether dropout acts on this adapter now."""
        return self.config[adapter].lora_dropout > 0 and self.rng is not None

    def _update(self, x: Tensor, adapter: str, scale: float) -> Tensor:
        """scale · B A dropout(x). The factor goes to the r numbers in the middle, where it is cheapest."""
        if self._drops(adapter):
            assert self.rng is not None
            x = ops.dropout(x, self.config[adapter].lora_dropout, self.rng)
        low = ops.linear(x, self.lora_A[adapter])  # (..., in) -> (..., r)
        return ops.linear(low * scale, self.lora_B[adapter])  # (..., r) -> (..., out)

    def delta(self, adapter: str) -> Array:
        """ΔW = s · B A, (out, in), of rank at most r."""
        return self.scaling[adapter] * (self.lora_B[adapter].data @ self.lora_A[adapter].data)

    @property
    def variants(self) -> tuple[str, ...]:
        """The adapters that a call can choose among."""
        return tuple(self.config)

    @property
    def fixed(self) -> str:
        """While merged, the weight stands for two matrices, and replacing it would lose one."""
        return "adapters are merged into the weights; call lora.unmerge(model) first" if self.merged else ""

    @property
    def merged(self) -> bool:
        """Whether the active adapters are part of the weight at the moment."""
        return self._original is not None

    def merge(self) -> None:
        """W ← W + Σ strength · ΔW of the active adapters. W itself is kept, so nothing is lost to rounding."""
        original = self.weight if self._original is None else self._original
        merged = original.data.copy()
        for adapter, strength in self.active.items():
            merged += strength * self.delta(adapter)
        self._original, self.weight = original, Tensor(merged)

    def unmerge(self) -> None:
        """Put the kept W back: the same array, bit for bit."""
        if self._original is not None:
            self.weight, self._original = self._original, None


def _draw_A(rng: np.random.Generator, r: int, n_in: int, config: LoraConfig) -> Array:
    """A (r, in), uniform in ±1/√in whatever r: Kaiming's bound with a = √5. "gaussian": normal, of deviation 1/r."""
    if config.init_lora_weights == "gaussian":
        return rng.standard_normal((r, n_in)) / r
    return rng.uniform(-1, 1, (r, n_in)) / n_in**0.5


def _draw_B(rng: np.random.Generator, n_out: int, r: int, config: LoraConfig) -> Array:
    """B (out, r), zero, so that ΔW begins at zero. (Were A zero as well, no gradient would ever reach either.)"""
    if config.init_lora_weights is False:
        return rng.uniform(-1, 1, (n_out, r)) / r**0.5
    return np.zeros((n_out, r))
