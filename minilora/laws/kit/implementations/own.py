"""minilora's LoRA layer with the interface that the laws expect, built on `minilora.lora`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minilora import lora
from minilora.autograd import Tensor, gradients
from minilora.backend import Array
from minilora.nn import Linear, Module
from minilora.nn.choice import choosing, resolve


class Holder(Module):
    """A model with a single Linear layer."""

    def __init__(self, W: Array) -> None:
        self.linear = Linear(Tensor(W.copy(), requires_grad=True))


class MiniloraLayer:
    """The methods are described in `laws/kit/layer.py`."""

    def __init__(self, W: Array, A: Array, B: Array, alpha: float, r: int, **options: Any) -> None:
        self.model = Holder(W)
        self._add("default", A, B, alpha, r, **options)

    @classmethod
    def fresh(cls, W: Array, r: int, alpha: float, rng: np.random.Generator) -> MiniloraLayer:
        self = cls.__new__(cls)
        self.model = Holder(W)
        lora.inject(self.model, lora.LoraConfig(r=r, lora_alpha=alpha, target_modules=["linear"]), rng=rng)
        return self

    @classmethod
    def rslora(cls, W: Array, A: Array, B: Array, alpha: float, r: int) -> MiniloraLayer:
        return cls(W, A, B, alpha, r, use_rslora=True)

    @classmethod
    def many(cls, W: Array, adapters: Mapping[str, tuple[Array, Array, float, int]]) -> MiniloraLayer:
        self = cls.__new__(cls)
        self.model = Holder(W)
        for name, adapter in adapters.items():
            self._add(name, *adapter)
        return self

    def _add(self, name: str, A: Array, B: Array, alpha: float, r: int, **options: Any) -> None:
        config = lora.LoraConfig(r=r, lora_alpha=alpha, target_modules=["linear"], **options)
        lora.inject(self.model, config, name, rng=np.random.default_rng(0))
        self._layer.lora_A[name].data[...], self._layer.lora_B[name].data[...] = A, B

    @property
    def _layer(self) -> lora.AdaptedLinear:
        assert isinstance(self.model.linear, lora.AdaptedLinear)
        return self.model.linear

    @property
    def weight(self) -> Array:
        return self.model.linear.weight.data

    @property
    def A(self) -> Array:
        return self._layer.lora_A["default"].data

    @property
    def B(self) -> Array:
        return self._layer.lora_B["default"].data

    def forward(self, x: Array) -> Array:
        return self.model.linear(Tensor(x)).data

    def forward_in_training(self, x: Array, p: float, rng: np.random.Generator) -> Array:
        r = len(self.A)
        trained = MiniloraLayer(self.weight, self.A, self.B, self._layer.scaling["default"] * r, r, lora_dropout=p)
        trained.model.train(rng)
        return trained.forward(x)

    def forward_rows(self, x: Array, names: Sequence[str | None]) -> Array:
        with choosing(resolve(self.model, list(names), len(x))):
            return self.forward(x)

    def gradients(self, x: Array, g: Array) -> dict[str, Array]:
        inputs = {"A": self._layer.lora_A["default"], "B": self._layer.lora_B["default"]}
        inputs["x"] = Tensor(x, requires_grad=True)
        if self.model.linear.weight.requires_grad:
            inputs["W"] = self.model.linear.weight
        found = gradients(self.model.linear(inputs["x"]), list(inputs.values()), g)
        return dict(zip(inputs, found, strict=True))

    def step(self, x: Array, g: Array, lr: float) -> None:
        self.model.linear(Tensor(x)).backward(g)
        for p in self.model.parameters(trainable=True):
            assert p.grad is not None
            p.data -= lr * p.grad
            p.grad = None

    def trainable(self) -> list[Array]:
        return [p.data for p in self.model.parameters(trainable=True)]

    def set_active(self, strengths: Mapping[str, float]) -> None:
        lora.set_active(self.model, strengths)

    def merge(self) -> None:
        lora.merge(self.model)

    def unmerge(self) -> None:
        lora.unmerge(self.model)

    def merge_and_unload(self) -> list[Array]:
        lora.merge_and_unload(self.model)
        return [p.data for p in self.model.parameters()]

    def mix(self, weights: Mapping[str, float], how: str, r: int | None = None) -> None:
        lora.mix(self.model, weights, "mixed", how, r)
