"""An update: one adapter on one Linear. Every adaptation method is a subclass; LoRA's is in `lora/lora.py`.

        h = W x + strength · u(x)

A method says what u is in one of three ways, from the most special to the most general: by thin factors, if
u(x) = scale · B A x (`factors`); by a matrix, if u(x) = ΔW x (`delta`); or by u itself (`apply`). What the first two
say, the layer that holds the update (`host.py`) can merge; what the first says, it computes without ever forming ΔW.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from minilora.autograd import ops
from minilora.autograd.tensor import Tensor
from minilora.nn import Linear, Module


class Factors(NamedTuple):
    """A (r, in) and B (out, r) with ΔW = scale · B A."""

    A: Tensor
    B: Tensor
    scale: float


class Update(Module):
    """One adapter on one Linear.

    Parameters
    ----------
    tensors : its numbers, by the names that its method gives them. They become attributes
    dropout : the probability of zeroing an input of u while training; the layer that holds the update applies it

    The tensors named in `frozen` are never trained.
    """

    frozen: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, tensors: Mapping[str, Tensor], dropout: float = 0.0) -> None:
        vars(self).update(tensors)
        self.dropout = dropout

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its numbers, by name."""
        return {name: part for name, part in self._parts() if isinstance(part, Tensor)}

    def train_tensors(self, wanted: bool) -> None:
        """Let gradients reach its tensors, or not."""
        for name, tensor in self.tensors.items():
            tensor.requires_grad = wanted and name not in self.frozen

    def factors(self) -> Factors | None:
        """A and B where ΔW = scale · B A, or None."""
        return None

    def delta(self, base: Linear) -> Tensor | None:
        """ΔW (out, in), made of ops so that gradients reach the tensors; None where u(x) is not ΔW x.

        `base` is the frozen Linear: `base(x)` is W x, and `base.dense()` is W.
        """
        factors = self.factors()
        return None if factors is None else (factors.B @ factors.A) * factors.scale

    def apply(self, x: Tensor, h: Tensor | None, base: Linear) -> Tensor:
        """u(x), for an update without factors. x is (..., in), u(x) is (..., out).

        `x` has been through dropout; `h` is W x, or None where dropout has changed x.
        """
        delta = self.delta(base)
        if delta is None:
            raise TypeError(f"{type(self).__name__} should define factors, delta or apply")
        return ops.linear(x, delta)
