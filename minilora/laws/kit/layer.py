"""The interface of a LoRA layer for the laws: `check(MyLoraLinear)` checks any class that has it.

    class MyLoraLinear:
        def __init__(self, W, A, B, alpha, r): ...    # W (out, in), A (r, in), B (out, r); arrays of one dtype
        def forward(self, x): ...                     # x (tokens, in) -> h (tokens, out)

These two methods are enough to begin with. Each member below makes more laws apply; laws about missing members are
skipped.

        weight                            the current weight matrix: W, or W + s·BA when merged
        merge(), unmerge()                add the update to the weight; restore W
        gradients(x, g)                   {"A": ∂L/∂A, "B": ∂L/∂B, "x": ∂L/∂x} for g = ∂L/∂h; no "W", it is frozen
        step(x, g, lr)                    one step of plain gradient descent on the trainable parameters
        A, B                              the current factors
        trainable()                       the list of trainable arrays
        merge_and_unload()                merge permanently; return the list of the arrays of the resulting plain layer
        forward_in_training(x, p, rng)    forward with dropout of probability p
        fresh(W, r, alpha, rng)           class method: a layer with A and B as initialized before training
        rslora(W, A, B, alpha, r)         class method: a layer with scale α/√r
        many(W, adapters)                 class method: a layer with several adapters, {name: (A, B, alpha, r)}
        set_active({name: strength})      activate these adapters and no others; {} activates none
        forward_rows(x, names)            forward for x (batch, tokens, in) with an adapter name for each row, or None
                                          for the base
        mix(weights, how, r)              add an adapter "mixed", a mixture of others by "cat", "linear" or "svd" (of
                                          rank r), and make it the only active one

Arrays are passed and returned as NumPy arrays, whatever a layer uses internally. Examples: `implementations/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from minilora.backend import Array
from minilora.laws.kit.case import Case

Layer: TypeAlias = Any
"""A class with the interface above. The `needs` of a law list the optional members that it uses."""


@dataclass(frozen=True)
class Adapter:
    """An adapter: A (r, in), B (out, r), α and r."""

    A: Array
    B: Array
    alpha: float
    r: int

    @property
    def delta(self) -> Array:
        """ΔW = (α/r) B A, by definition."""
        return self.alpha / self.r * (self.B @ self.A)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over A, B, α, r, the order of a layer's constructor arguments."""
        return iter((self.A, self.B, self.alpha, self.r))


def draw_weight(case: Case, most: int = 6) -> Array:
    """Draw a weight W (out, in) with at most `most` rows and columns."""
    return case.array("W", case.size("out", 1, most), case.size("in", 1, most))


def draw_adapter(case: Case, W: Array, name: str = "", r: int | None = None) -> Adapter:
    """Draw an adapter for W, of rank 1 to 4 unless `r` is given; r may exceed the rank of W."""
    r = case.size(f"r{name}", 1, 4) if r is None else r
    n_out, n_in = W.shape
    A, B = case.array(f"A{name}", r, n_in), case.array(f"B{name}", n_out, r)
    return Adapter(A, B, case.number(f"alpha{name}", positive=True), r)


def draw_adapters(case: Case, W: Array, equal_ranks: bool = False) -> tuple[dict[str, Adapter], dict[str, float]]:
    """Draw two or three adapters by name, and a strength or mixing weight for each."""
    names = ["a", "b", "c"][: case.size("adapters", 2, 3)]
    r = case.size("r of all", 1, 4) if equal_ranks else None
    adapters = {name: draw_adapter(case, W, f"_{name}", r) for name in names}
    return adapters, {name: case.number(f"strength_{name}") for name in names}


def draw_inputs(case: Case, W: Array, tokens: int | None = None) -> Array:
    """Draw inputs x (tokens, in)."""
    return case.array("x", tokens or case.size("tokens", 1, 3), W.shape[1])


def update_of(layer: Layer, n_in: int, dtype: Any) -> Array:
    """ΔW (out, in) as the layer computes it: its output for the unit vectors, minus that with no adapter active.

    Leaves the layer with no adapter active.
    """
    unit = np.eye(n_in, dtype=dtype)
    acting = layer.forward(unit)
    layer.set_active({})
    return (acting - layer.forward(unit)).T
