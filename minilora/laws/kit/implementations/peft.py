"""Hugging Face PEFT's LoRA layer with the interface that the laws expect. Requires torch and peft (extra `oracle`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import peft
import torch

from minilora.backend import Array

BASE = "__base__"
"""The adapter name by which PEFT marks a row without an adapter in a mixed batch."""


class Holder(torch.nn.Module):
    """A model with a single Linear layer."""

    def __init__(self, W: Array) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=_tensor(W).dtype)
        self.linear.weight.data.copy_(_tensor(W))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class PeftLayer:
    """The methods are described in `laws/kit/layer.py`."""

    def __init__(self, W: Array, A: Array, B: Array, alpha: float, r: int, **options: Any) -> None:
        self._begin(W, "default", alpha, r, **options)
        self._set("default", A, B)

    @classmethod
    def fresh(cls, W: Array, r: int, alpha: float, rng: np.random.Generator) -> PeftLayer:
        self = cls.__new__(cls)
        torch.manual_seed(int(rng.integers(2**31)))
        self._begin(W, "default", alpha, r)
        return self

    @classmethod
    def rslora(cls, W: Array, A: Array, B: Array, alpha: float, r: int) -> PeftLayer:
        return cls(W, A, B, alpha, r, use_rslora=True)

    @classmethod
    def many(cls, W: Array, adapters: Mapping[str, tuple[Array, Array, float, int]]) -> PeftLayer:
        self = cls.__new__(cls)
        for i, (name, (A, B, alpha, r)) in enumerate(adapters.items()):
            if i == 0:
                self._begin(W, name, alpha, r)
            else:
                self.model.add_adapter(name, _config(alpha, r))
            self._set(name, A, B)
        return self

    def _begin(self, W: Array, name: str, alpha: float, r: int, **options: Any) -> None:
        self.model = peft.get_peft_model(
            Holder(W), _config(alpha, r, **options), adapter_name=name, autocast_adapter_dtype=False
        )
        dtype = _tensor(W).dtype
        self.model.to(dtype)
        self.model.eval()

    def _set(self, name: str, A: Array, B: Array) -> None:
        self._layer.to(_tensor(A).dtype)
        self._layer.lora_A[name].weight.data.copy_(_tensor(A))
        self._layer.lora_B[name].weight.data.copy_(_tensor(B))

    @property
    def _layer(self) -> Any:
        adapted: Any = self.model.base_model.model
        return adapted.linear

    @property
    def weight(self) -> Array:
        return self._layer.base_layer.weight.detach().numpy().copy()

    @property
    def A(self) -> Array:
        return self._layer.lora_A["default"].weight.detach().numpy().copy()

    @property
    def B(self) -> Array:
        return self._layer.lora_B["default"].weight.detach().numpy().copy()

    def forward(self, x: Array) -> Array:
        with torch.no_grad():
            return self.model(_tensor(x)).numpy()

    def forward_in_training(self, x: Array, p: float, rng: np.random.Generator) -> Array:
        torch.manual_seed(int(rng.integers(2**31)))
        self._layer.lora_dropout["default"] = torch.nn.Dropout(p)
        self.model.train()
        return self.forward(x)

    def forward_rows(self, x: Array, names: Sequence[str | None]) -> Array:
        with torch.no_grad():
            return self.model(_tensor(x), adapter_names=[name or BASE for name in names]).numpy()

    def gradients(self, x: Array, g: Array) -> dict[str, Array]:
        self.model.zero_grad()
        inputs = _tensor(x).requires_grad_()
        self.model(inputs).backward(_tensor(g))
        parts = {"A": self._layer.lora_A["default"].weight, "B": self._layer.lora_B["default"].weight, "x": inputs}
        parts["W"] = self._layer.base_layer.weight
        return {name: part.grad.numpy().copy() for name, part in parts.items() if part.grad is not None}

    def step(self, x: Array, g: Array, lr: float) -> None:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.model.zero_grad()
        self.model(_tensor(x)).backward(_tensor(g))
        torch.optim.SGD(trained, lr=lr).step()

    def trainable(self) -> list[Array]:
        return [p.detach().numpy() for p in self.model.parameters() if p.requires_grad]

    def set_active(self, strengths: Mapping[str, float]) -> None:
        """Activate adapters. PEFT has no strengths, so `set_scale` sets an adapter's scaling to strength · α/r."""
        for name, strength in strengths.items():
            self._layer.set_scale(name, strength)
        self._layer.set_adapter(list(strengths))

    def merge(self) -> None:
        self.model.merge_adapter()

    def unmerge(self) -> None:
        self.model.unmerge_adapter()

    def merge_and_unload(self) -> list[Array]:
        return [p.detach().numpy() for p in self.model.merge_and_unload().parameters()]

    def mix(self, weights: Mapping[str, float], how: str, r: int | None = None) -> None:
        self.model.add_weighted_adapter(
            list(weights), list(weights.values()), "mixed", combination_type=how, svd_rank=r
        )
        self.set_active({"mixed": 1.0})


def _config(alpha: float, r: int, **options: Any) -> peft.LoraConfig:
    return peft.LoraConfig(r=r, lora_alpha=alpha, target_modules=["linear"], **options)


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
