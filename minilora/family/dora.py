"""DoRA: LoRA, with the norm of each row of the adapted weight as a separate parameter (Liu et al. 2024, eq. 5).

        W' = m ⊙ V / ‖V‖,   V = W + s B A        ‖V‖ (out,): norms of the rows;  m (out,): trained, initialized to ‖V‖
        u(x) = (m/‖V‖ - 1) ⊙ W x + (m/‖V‖) ⊙ s B A x

The backward pass treats ‖V‖ as a constant (section 4.3), as in PEFT. With several active DoRA adapters, their u(x) are
summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minilora.adapters.method import method
from minilora.autograd import Tensor, ops, stop_gradient
from minilora.backend import Array, to_host
from minilora.lora.config import LoraConfig
from minilora.lora.lora import LoraUpdate
from minilora.nn import Linear


class DoraUpdate(LoraUpdate):
    lora_magnitude_vector: Tensor  # m (out,)

    def factors(self, base: Linear) -> None:
        return None  # ΔW is not of low rank

    def gain(self, base: Linear) -> Tensor:
        """Return m/‖V‖ (out,)."""
        norm = np.linalg.norm(base.dense().data + self.scaling * (self.lora_B.data @ self.lora_A.data), axis=1)
        return self.lora_magnitude_vector / Tensor(stop_gradient(norm + (norm == 0)))  # avoids 0/0 for a zero row

    def delta(self, base: Linear) -> Tensor | None:
        gain = self.gain(base).reshape(-1, 1)
        return (gain - 1) * base.dense() + gain * ((self.lora_B @ self.lora_A) * self.scaling)

    def apply(self, x: Tensor, h: Tensor | None, base: Linear) -> Tensor:
        gain, low = self.gain(base), ops.linear(x, self.lora_A) * self.scaling
        return (gain - 1) * (base(x) if h is None else h) + gain * ops.linear(low, self.lora_B)


@method
@dataclass(frozen=True)
class DoraConfig(LoraConfig):
    """The settings of a DoRA adapter, which are those of LoRA."""

    name: ClassVar[str] = "dora"
    label: ClassVar[str] = "DoRA"
    recognized_by: ClassVar[dict[str, Any]] = {"peft_type": "LORA", "use_dora": True}
    update_type: ClassVar[type[LoraUpdate]] = DoraUpdate

    def shapes(self, path: str) -> dict[str, tuple[str | int, ...]]:
        return {**super().shapes(path), "lora_magnitude_vector": ("out",)} if path else {}

    def draw(self, path: str, base: Linear, rng: np.random.Generator) -> dict[str, Array]:
        drawn, W = super().draw(path, base, rng), to_host(base.dense().data)
        V = W + (self.scaling(path) * (drawn["lora_B"] @ drawn["lora_A"])).astype(W.dtype)
        return {**drawn, "lora_magnitude_vector": np.linalg.norm(V, axis=1)}
