"""An Update is the part of an adapter that belongs to one Linear. Every adaptation method is a subclass.

        h = W x + strength · u(x)

A subclass says what u is by overriding one of these, from the most specific to the most general:

        factors     u(x) = scale · B A x     two thin factors; LoRA's are in `lora/lora.py`
        delta       u(x) = ΔW x              any matrix
        apply       u(x)                     any function; beside `delta` it may be a cheaper way to the same

An update with `factors` or `delta` can be merged. With `factors`, two thin products replace the one with ΔW.
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
    """The update of one Linear.

    Parameters
    ----------
    tensors : its tensors by name; they become attributes
    dropout : the probability of zeroing an input of u in training; the layer that holds the update applies it

    Tensors named in `frozen` are never trained.
    """

    frozen: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, tensors: Mapping[str, Tensor], dropout: float = 0.0) -> None:
        vars(self).update(tensors)
        self.dropout = dropout

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {name: part for name, part in self._parts() if isinstance(part, Tensor)}

    def set_trainable(self, trainable: bool) -> None:
        """Set `requires_grad` of its tensors, except those in `frozen`."""
        for name, tensor in self.tensors.items():
            tensor.requires_grad = trainable and name not in self.frozen

    def decays(self, name: str) -> bool:
        """Whether weight decay applies to the tensor `name`; by default only to matrices."""
        return self.tensors[name].ndim >= 2

    def lr_scale(self, name: str) -> float:
        """The multiple of the learning rate at which the tensor `name` learns."""
        return 1.0

    def factors(self, base: Linear) -> Factors | None:
        """A and B where ΔW = scale · B A; None for other updates.

        `base` is the frozen Linear: `base(x)` is W x, and `base.dense()` is W.
        """
        return None

    def delta(self, base: Linear) -> Tensor | None:
        """ΔW (out, in), differentiable with respect to the tensors; None where u is not linear in x."""
        factors = self.factors(base)
        return None if factors is None else (factors.B @ factors.A) * factors.scale

    def apply(self, x: Tensor, h: Tensor | None, base: Linear) -> Tensor:
        """u(x) for an update without factors: x (..., in) -> (..., out).

        `x` has been through dropout. `h` is W x, or None where dropout has changed x.
        """
        delta = self.delta(base)
        if delta is None:
            raise TypeError(f"{type(self).__name__} should define factors, delta or apply")
        return ops.linear(x, delta)
