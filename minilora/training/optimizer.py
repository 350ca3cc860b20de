"""AdamW over one flat buffer.

All trainable parameters become views into one long array, their gradients into a second. Clipping and the update
are then a few large in-place operations, whatever the number of parameters. For LoRA the buffer holds A and B
alone, and so do the two moments: this is where fine-tuning with LoRA saves memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from minilora.autograd.tensor import Tensor
from minilora.backend import Array


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), the decay times the learning rate, as in PyTorch.

        m ← β₁m + (1-β₁)g,   v ← β₂v + (1-β₂)g²
        θ ← θ - lr · m̂ / (√v̂ + ε) - lr · λ · θ,   m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ)

    Matrices decay; vectors, which are gains, do not.

    Parameters
    ----------
    parameters : named tensors; their `.data` and `.grad` become views into the flat buffers
    weight_decay : λ
    betas, eps : β₁, β₂, ε
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Tensor]],
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        given = list(parameters)
        named = sorted(given, key=lambda item: item[1].ndim < 2)  # stable: matrices first, then gains
        if not named:
            raise ValueError("expected parameters to train, found none with requires_grad=True")
        self.parameters = [p for _, p in given]
        self.weight_decay, self.betas, self.eps, self.steps = weight_decay, betas, eps, 0
        self.layout = [(name, p.shape) for name, p in named]
        self.decayed = sum(p.size for _, p in named if p.ndim >= 2)
        size = sum(p.size for _, p in named)
        first = named[0][1].data
        self.data, self.grad, self.m, self.v, self._scratch = (np.zeros_like(first, shape=size) for _ in range(5))
        self._views: list[tuple[Tensor, Array, Array]] = []
        offset = 0
        for _, p in named:
            here = slice(offset, offset + p.size)
            self.data[here] = p.data.reshape(-1)
            p.data, p.grad = self.data[here].reshape(p.shape), self.grad[here].reshape(p.shape)
            self._views.append((p, p.data, p.grad))
            offset += p.size

    def zero_grad(self) -> None:
        """Forget the gradients; `step` does it by itself."""
        self.grad.fill(0)
        for p, _, grad in self._views:
            p.grad = grad

    def add(self, gradients: Iterable[Array]) -> None:
        """Add a gradient to that of each parameter, in the order in which the parameters were given."""
        self.collect()
        for p, gradient in zip(self.parameters, gradients, strict=True):
            assert p.grad is not None  # `collect` has seen to it
            p.grad += gradient

    def collect(self) -> None:
        """See that every `.grad` lies in the flat buffer, also where it was set anew, say to None.

        Raises RuntimeError when a parameter has left the buffer: `astype` or a second optimizer does that.
        """
        for (p, data, grad), (name, _) in zip(self._views, self.layout, strict=True):
            if p.data is not data:
                raise RuntimeError(f"{name} was replaced after this optimizer was made; make a new optimizer")
            if p.grad is not grad:
                grad[...] = 0 if p.grad is None else p.grad
                p.grad = grad

    def clip(self, max_norm: float) -> float:
        """Scale the gradient down to `max_norm` if it is longer; return its length before."""
        self.collect()
        norm = float(np.sqrt(np.dot(self.grad, self.grad)))
        if norm > max_norm > 0:
            self.grad *= max_norm / norm
        return norm

    def step(self, lr: float) -> None:
        """One update with learning rate `lr`; then the gradient is zero again."""
        self.collect()
        self.steps += 1
        (b1, b2), g, m, v, s = self.betas, self.grad, self.m, self.v, self._scratch
        _decay_towards(m, g, b1, s)
        np.multiply(g, g, out=g)  # the gradient is not needed any more
        _decay_towards(v, g, b2, s)
        np.sqrt(v, out=s)
        s *= 1 / (1 - b2**self.steps) ** 0.5
        s += self.eps
        np.divide(m, s, out=s)
        s *= lr / (1 - b1**self.steps)
        self.data[: self.decayed] *= 1 - lr * self.weight_decay
        self.data -= s
        g.fill(0)


def _decay_towards(average: Array, value: Array, beta: float, scratch: Array) -> None:
    """average ← β average + (1-β) value, in place."""
    np.multiply(value, 1 - beta, out=scratch)
    average *= beta
    average += scratch
