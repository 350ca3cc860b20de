"""What the laws ask of a LoRA layer: any class of this form can be held to them. `check(MyLoraLinear)` does it.

    class MyLoraLinear:
        def __init__(self, W, A, B, alpha, r): ...    # W (out, in), A (r, in), B (out, r); arrays of one dtype
        def forward(self, x): ...                     # x (tokens, in) -> h (tokens, out)

That is enough to begin with. Whatever a class has of the following is held to more laws; what it lacks is passed over.

        weight                            the matrix that stands in W's place now: W, or W + s·BA when merged
        merge(), unmerge()                fold the update into the weight; put W back
        gradients(x, g)                   {"A": ∂L/∂A, "B": ∂L/∂B, "x": ∂L/∂x} for g = ∂L/∂h; no "W", it is frozen
        step(x, g, lr)                    one step of plain gradient descent on what is trained
        A, B                              the factors as they are now
        trainable()                       the arrays that are trained, as a list
        merge_and_unload()                the arrays of the plain layer that a final merge leaves, as a list
        forward_in_training(x, p, rng)    forward with dropout of probability p
        fresh(W, r, alpha, rng)           class method: a layer with A and B as they are drawn before training
        rslora(W, A, B, alpha, r)         class method: a layer scaled by α/√r
        many(W, adapters)                 class method: a layer with several adapters, {name: (A, B, alpha, r)}
        set_active({name: strength})      which of them act; none for {}
        forward_rows(x, names)            x (batch, tokens, in); a name, or None for the base, for each row
        mix(weights, how, r)              add the adapter "mixed", a mixture of others by "cat", "linear" or "svd", and
                                          make it the active one

Arrays go in and come out as NumPy's, whatever is inside. Ready-made: `implementations/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from minilora.backend import Array
from minilora.laws.kit.case import Case

Layer: TypeAlias = Any
"""A class of the form above. Which of its methods a law uses, the law's `needs` say."""


@dataclass(frozen=True)
class Adapter:
    """A drawn adapter: A (r, in), B (out, r), α and r."""

    A: Array
    B: Array
    alpha: float
    r: int

    @property
    def delta(self) -> Array:
        """ΔW = (α/r) B A, by its definition."""
        return self.alpha / self.r * (self.B @ self.A)

    def __iter__(self) -> Iterator[Any]:
        """A, B, α, r, in the order in which a layer takes them."""
        return iter((self.A, self.B, self.alpha, self.r))


def draw_weight(case: Case, most: int = 6) -> Array:
    """A weight W (out, in) of at most `most` on each side."""
    return case.array("W", case.size("out", 1, most), case.size("in", 1, most))


def draw_adapter(case: Case, W: Array, name: str = "", r: int | None = None) -> Adapter:
    """An adapter for W, of rank 1 to 4 unless given; r may well be more than W's own rank."""
    r = case.size(f"r{name}", 1, 4) if r is None else r
    n_out, n_in = W.shape
    A, B = case.array(f"A{name}", r, n_in), case.array(f"B{name}", n_out, r)
    return Adapter(A, B, case.number(f"alpha{name}", positive=True), r)


def draw_adapters(case: Case, W: Array, equal_ranks: bool = False) -> tuple[dict[str, Adapter], dict[str, float]]:
    """Two or three adapters by name, and a strength or weight for each."""
    names = ["a", "b", "c"][: case.size("adapters", 2, 3)]
    r = case.size("r of all", 1, 4) if equal_ranks else None
    adapters = {name: draw_adapter(case, W, f"_{name}", r) for name in names}
    return adapters, {name: case.number(f"strength_{name}") for name in names}


def draw_inputs(case: Case, W: Array, tokens: int | None = None) -> Array:
    """Inputs x (tokens, in)."""
    return case.array("x", tokens or case.size("tokens", 1, 3), W.shape[1])


def update_of(layer: Layer, n_in: int, dtype: Any) -> Array:
    """ΔW (out, in) as the layer computes it: what it does to the unit vectors, less what it does with no adapter on."""
    unit = np.eye(n_in, dtype=dtype)
    acting = layer.forward(unit)
    layer.set_active({})
    return (acting - layer.forward(unit)).T
