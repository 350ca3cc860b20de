"""Optimizers on flat buffers, selected by name.

All trainable parameters become views into one flat array, and their gradients views into another. Clipping and the
update are then a few large in-place operations, regardless of the number of parameters. With LoRA, the buffers and
AdamW's state cover only A and B, which is where fine-tuning with LoRA saves memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

import numpy as np

from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.registry import MODULES

_OPTIMIZERS: dict[str, type[Optimizer]] = {}


class ParameterGroup(NamedTuple):
    """Parameters that share a weight decay λ and a learning-rate multiplier."""

    parameters: list[tuple[str, Tensor]]
    weight_decay: float = 0.0
    lr_scale: float = 1.0

    def __repr__(self) -> str:
        size = sum(p.size for _, p in self.parameters)
        return f"ParameterGroup(parameters={size:,}, weight_decay={self.weight_decay:g}, lr_scale={self.lr_scale:g})"


class Optimizer(ABC):
    """Base class: flat buffers, gradient accumulation and clipping, and the selection of the parameters to update.

    As in PyTorch, a step skips a parameter whose `.grad` is None: no update, no weight decay, no change of its state.

    Parameters
    ----------
    groups : the parameters to train; their `.data` become views into the buffer `data`, and their `.grad`, unless it
        is None, into `grad`
    betas : decay rates of the running averages, for optimizers that have them

    A subclass defines `update`, and returns from `state` the arrays that a checkpoint must include.
    """

    name: ClassVar[str]

    def __init__(self, groups: Iterable[ParameterGroup], betas: tuple[float, float] = (0.9, 0.999)) -> None:
        groups, self.betas, self.steps = list(groups), betas, 0
        named = [pair for group in groups for pair in group.parameters]
        if not named:
            raise ValueError("no trainable parameters: none has requires_grad=True")
        _check_alike(named)
        self.parameters = [p for _, p in named]
        self.layout = [(name, p.shape) for name, p in named]
        self.updates = [0] * len(named)  # number of updates of each parameter
        self.data, self.grad = self._buffer(), self._buffer()
        self._parts: dict[int, slice] = {}
        self._views: list[tuple[Tensor, Array, Array]] = []
        end = 0
        for p in self.parameters:
            start, end = end, end + p.size
            here = self._parts[id(p)] = slice(start, end)
            self.data[here] = p.data.reshape(-1)
            p.data = self.data[here].reshape(p.shape)
            self._views.append((p, p.data, self.grad[here].reshape(p.shape)))
        self.groups = groups
        self._group_of = [group for group, (parameters, *_) in enumerate(groups) for _ in parameters]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(parameters={self.data.size:,}, groups={len(self.groups)}, steps={self.steps})"

    @abstractmethod
    def update(self, part: slice, lr: float, weight_decay: float, t: int) -> None:
        """Update one part of the flat buffers. This is update number `t` of its parameters, counted from 1."""

    def step(self, lr: float) -> None:
        """Perform one update with learning rate `lr`. The gradients are kept until `zero_grad`."""
        self.collect()
        self.steps += 1
        self.updates = [n + (p.grad is not None) for n, p in zip(self.updates, self.parameters, strict=True)]
        for group, part, t in self._spans():
            self.update(part, lr * group.lr_scale, group.weight_decay, t)

    def _spans(self) -> Iterator[tuple[ParameterGroup, slice, int]]:
        """Yield the parts of the buffers to update: adjacent parameters of one group with equal numbers of updates."""

        def kind(i: int) -> tuple[int, int] | None:
            return None if self.parameters[i].grad is None else (self._group_of[i], self.updates[i])

        for found, members in groupby(range(len(self.parameters)), kind):
            if found:
                parts = [self._parts[id(self.parameters[i])] for i in members]
                yield self.groups[found[0]], slice(parts[0].start, parts[-1].stop), found[1]

    @property
    def state(self) -> dict[str, Array]:
        """The arrays, other than the parameters, on which later updates depend; each as long as `data`."""
        return {}

    @property
    def nbytes(self) -> int:
        """Size of the state and the work buffers, in bytes."""
        return sum(array.nbytes for array in self.state.values())

    def zero_grad(self) -> None:
        """Set all gradients to None, as in PyTorch."""
        for p in self.parameters:
            p.grad = None

    def add(self, gradients: Iterable[Array]) -> None:
        """Add one gradient per parameter, in the order of `parameters`."""
        self.collect()
        for (p, _, grad), gradient in zip(self._views, gradients, strict=True):
            grad += gradient
            p.grad = grad

    def collect(self) -> None:
        """Copy the gradients into the flat buffer; it is zero where a gradient is None.

        Raises RuntimeError if a parameter's data was replaced, for example by `astype` or a second optimizer.
        """
        for (p, data, grad), (name, _) in zip(self._views, self.layout, strict=True):
            if p.data is not data:
                raise RuntimeError(f"{name} was replaced after this optimizer was created; create a new optimizer")
            if p.grad is None:
                grad.fill(0)
            elif p.grad is not grad:
                grad[...] = p.grad
                p.grad = grad

    def clip(self, max_norm: float) -> float:
        """Clip the gradient to norm `max_norm` (0: no limit) and return its norm before clipping."""
        self.collect()
        norm = float(np.sqrt(np.dot(self.grad, self.grad)))
        if norm > max_norm > 0:
            self.grad *= max_norm / norm
        return norm

    def forget(self, parameter: Tensor) -> None:
        """Set the state of one parameter to zero, for methods that reinitialize it during training."""
        for array in self.state.values():
            array[self._parts[id(parameter)]] = 0

    def _buffer(self) -> Array:
        """A flat array of zeros for all parameters, with their dtype and on their device."""
        return np.zeros_like(self.parameters[0].data, shape=sum(p.size for p in self.parameters))


def _check_alike(named: list[tuple[str, Tensor]]) -> None:
    """Raise ValueError unless all parameters have the same dtype and none is listed twice."""
    seen: dict[int, str] = {}
    for name, p in named:
        if p.dtype != named[0][1].dtype:
            raise ValueError(
                f"expected parameters of one dtype, got {named[0][0]} with {named[0][1].dtype} and {name} with "
                f"{p.dtype}; convert the model with astype, or create an optimizer for each dtype"
            )
        if id(p) in seen:
            raise ValueError(f"expected each parameter once, got one under two names, {seen[id(p)]} and {name}")
        seen[id(p)] = name


def optimizer(cls: type[Optimizer]) -> type[Optimizer]:
    """Class decorator: register an optimizer under its name. Its module should be listed in `registry.py`."""
    _OPTIMIZERS[cls.name] = cls
    return cls


def optimizers() -> dict[str, type[Optimizer]]:
    """All registered optimizers by name."""
    for module in MODULES:
        import_module(module)
    return _OPTIMIZERS


@optimizer
class SGD(Optimizer):
    """Stochastic gradient descent with decoupled weight decay, as in AdamW: θ ← θ - lr · g - lr · λ · θ."""

    name = "sgd"

    def update(self, part: slice, lr: float, weight_decay: float, t: int) -> None:
        self.data[part] *= 1 - lr * weight_decay
        self.data[part] -= lr * self.grad[part]


@optimizer
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), scaled by the learning rate as in PyTorch.

        m ← β₁m + (1-β₁)g,   v ← β₂v + (1-β₂)g²
        θ ← θ - lr · m̂ / (√v̂ + ε) - lr · λ · θ,   m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ)

    Parameters
    ----------
    parameters : named tensors, such as `model.named_parameters()`, which form one group, or a list of ParameterGroup,
        each with its own λ. Frozen ones are never changed but take up memory
    weight_decay : λ for named tensors
    betas, eps : β₁, β₂ and ε
    """

    name = "adamw"

    def __init__(
        self,
        parameters: Iterable[ParameterGroup] | Iterable[tuple[str, Tensor]],
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        given: list[Any] = list(parameters)
        if not all(isinstance(item, ParameterGroup) for item in given):
            given = [ParameterGroup(given, weight_decay)]
        super().__init__(given, betas)
        self.eps = eps
        self.m, self.v, self._scratch = self._buffer(), self._buffer(), self._buffer()

    @property
    def state(self) -> dict[str, Array]:
        return {"exp_avg": self.m, "exp_avg_sq": self.v}

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._scratch.nbytes

    def update(self, part: slice, lr: float, weight_decay: float, t: int) -> None:
        (b1, b2), data, g = self.betas, self.data[part], self.grad[part]
        m, v, s = self.m[part], self.v[part], self._scratch[part]
        np.multiply(g, 1 - b1, out=s)
        m *= b1
        m += s
        np.multiply(g, g, out=s)
        s *= 1 - b2
        v *= b2
        v += s
        np.sqrt(v, out=s)
        s *= 1 / (1 - b2**t) ** 0.5
        s += self.eps
        np.divide(m, s, out=s)
        s *= lr / (1 - b1**t)
        if weight_decay:
            data *= 1 - lr * weight_decay
        data -= s
