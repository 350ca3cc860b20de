"""DoRA: the rows of the adapted weight get lengths of their own (Liu et al. 2024, eq. 5).

        W' = m ⊙ V / ‖V‖,   V = W + s B A        ‖V‖ (out,) the length of each row; m (out,) trained, ‖W‖ at first
        u(x) = (m/‖V‖ - 1) ⊙ W x + (m/‖V‖) ⊙ s B A x

The gradient takes ‖V‖ for a constant (section 4.3), as PEFT does. Several active DoRAs add up what each alone changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minilora.adapters.method import method
from minilora.adapters.update import Factors
from minilora.autograd import Tensor, ops, stop_gradient
from minilora.backend import Array, to_host
from minilora.lora.config import LoraConfig
from minilora.lora.lora import LoraUpdate
from minilora.nn import Linear


class DoraUpdate(LoraUpdate):
    lora_magnitude_vector: Tensor  # m (out,)

    def factors(self) -> Factors | None:
        return None  # ΔW has full rank

    def gain(self, base: Linear) -> Tensor:
        """m/‖V‖ (out,)."""
        norm = row_norms(base.dense().data + self.scaling * (self.lora_B.data @ self.lora_A.data))
        return self.lora_magnitude_vector / Tensor(stop_gradient(norm + (norm == 0)))  # a row of zeros stays one

    def delta(self, base: Linear) -> Tensor | None:
        gain = self.gain(base).reshape(-1, 1)
        return (gain - 1) * base.dense() + gain * ((self.lora_B @ self.lora_A) * self.scaling)

    def apply(self, x: Tensor, h: Tensor | None, base: Linear) -> Tensor:
        gain, low = self.gain(base), ops.linear(x, self.lora_A) * self.scaling
        return (gain - 1) * (base(x) if h is None else h) + gain * ops.linear(low, self.lora_B)


@method
@dataclass(frozen=True)
class DoraConfig(LoraConfig):
    """The settings of LoRA."""

    name: ClassVar[str] = "dora"
    label: ClassVar[str] = "DoRA"
    recognised_by: ClassVar[dict[str, Any]] = {"peft_type": "LORA", "use_dora": True}
    kind: ClassVar[type[LoraUpdate]] = DoraUpdate

    def shapes(self, path: str) -> dict[str, tuple[str | int, ...]]:
        return {**super().shapes(path), "lora_magnitude_vector": ("out",)} if path else {}

    def draw(self, path: str, base: Linear, rng: np.random.Generator) -> dict[str, Array]:
        drawn = super().draw(path, base, rng)
        V = to_host(base.dense().data) + self.scaling(path) * (drawn["lora_B"] @ drawn["lora_A"])
        return {**drawn, "lora_magnitude_vector": row_norms(V)}


def row_norms(V: Array) -> Array:
    return np.sqrt((V * V).sum(axis=1))
