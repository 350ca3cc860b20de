"""An Update is the part of an adapter that belongs to one Linear layer. Every adaptation method defines a subclass.

        h = W x + strength · u(x)

A subclass defines u by overriding one of these methods, listed from the most specific to the most general:

        factors     u(x) = scale · B A x     two thin factors, as in LoRA (`lora/lora.py`)
        delta       u(x) = ΔW x              any matrix
        apply       u(x)                     any function; with `delta` also defined, a cheaper way to get u(x)

An update with `factors` or `delta` can be merged. With `factors`, u(x) takes two products with thin matrices instead of
one with ΔW.
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
    """The update of one Linear layer.

    Parameters
    ----------
    tensors : the tensors of the update by name; they become attributes
    dropout : dropout probability for the input of u in training; applied by the layer that holds the update

    Tensors named in `frozen` are never trained.
    """

    frozen: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, tensors: Mapping[str, Tensor], dropout: float = 0.0) -> None:
        vars(self).update(tensors)
        self.dropout = dropout

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the update, by name."""
        return {name: part for name, part in self._parts() if isinstance(part, Tensor)}

    def set_trainable(self, trainable: bool) -> None:
        """Set `requires_grad` of the tensors; those in `frozen` always get False."""
        for name, tensor in self.tensors.items():
            tensor.requires_grad = trainable and name not in self.frozen

    def decays(self, name: str) -> bool:
        """Return whether weight decay applies to the tensor `name`; by default, only to matrices."""
        return self.tensors[name].ndim >= 2

    def lr_scale(self, name: str) -> float:
        """Return the factor that multiplies the learning rate for the tensor `name`."""
        return 1.0

    def factors(self, base: Linear) -> Factors | None:
        """Return A, B and scale if ΔW = scale · B A, and None for other updates.

        `base` is the frozen Linear: `base(x)` is W x, and `base.dense()` is W.
        """
        return None

    def delta(self, base: Linear) -> Tensor | None:
        """Return ΔW (out, in), differentiable with respect to the tensors, or None if u is not linear in x."""
        factors = self.factors(base)
        return None if factors is None else (factors.B @ factors.A) * factors.scale

    def apply(self, x: Tensor, h: Tensor | None, base: Linear) -> Tensor:
        """Return u(x) for an update without factors: x (..., in) -> (..., out).

        Dropout is already applied to `x`. `h` is W x, or None if dropout has changed x.
        """
        delta = self.delta(base)
        if delta is None:
            raise TypeError(f"{type(self).__name__} must define factors(), delta() or apply()")
        return ops.linear(x, delta)
