"""gradcheck: hold an op's rules against finite differences.

For a function f and a random cotangent c, the gradient of φ(x) = Σ c f(x) is what the rules claim. Along a random
direction d, its slope is also (φ(x + hd) - φ(x - hd)) / 2h, up to rounding and terms of order h². One random
direction sees an error in any entry; a plain `.sum()` instead of c would miss a transposed or permuted gradient.
What f passes through `stop_gradient` keeps the value that it has at x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minilora.autograd.engine import gradients
from minilora.autograd.tensor import Tensor, holding
from minilora.backend import Array


def gradcheck(
    function: Callable[..., Tensor],
    inputs: Sequence[Array],
    rng: np.random.Generator,
    directions: int = 4,
) -> float:
    """The worst relative error of `function`'s gradients against finite differences.

    Parameters
    ----------
    function : takes a Tensor for each input, returns a Tensor of any shape
    inputs : float64 arrays of unit scale; small values would hide mistakes
    rng : draws the cotangent and the directions
    directions : how many random directions to try for each input

    Returns
    -------
    The largest |claimed slope - measured slope| / scale over inputs and directions, where scale is the size that
    a slope along a random direction has: the norm of the claimed gradient. Right rules stay below 1e-7; nan where a
    gradient is nan.
    """
    for x in inputs:
        if x.dtype != np.float64:
            raise TypeError(f"gradcheck expects float64 inputs, got {x.dtype}: rounding would drown the comparison")
    leaves = [Tensor(x.copy(), requires_grad=True) for x in inputs]
    constants: list[Any] = []

    def note(value: Any) -> Any:
        constants.append(value)
        return value

    with holding(note):
        output = function(*leaves)
    cotangent = np.asarray(rng.standard_normal(output.shape))
    claimed = gradients(output, leaves, cotangent)
    # Where the true slope is nothing, rounding remains: up to about 1e-12 of φ's terms, which this keeps below 1e-7.
    floor = 1e-4 * float(np.sum(np.abs(cotangent * output.data)))
    errors = [0.0]
    for i, g in enumerate(claimed):
        for _ in range(directions):
            direction = np.asarray(rng.standard_normal(g.shape))
            slope = _measured_slope(function, inputs, i, direction, cotangent, constants)
            error = abs(float(np.sum(g * direction)) - slope)
            errors.append(error / max(abs(slope), float(np.linalg.norm(g)), floor, 1e-300))
    return float(np.max(errors))  # unlike Python's max, it lets no nan pass


def _measured_slope(
    function: Callable[..., Tensor],
    inputs: Sequence[Array],
    i: int,
    direction: Array,
    cotangent: Array,
    constants: Sequence[Any],
) -> float:
    """d/dh Σ c f(x + h d) at h = 0, by a central difference of fourth order."""

    def phi(h: float) -> Any:
        moved = [x + h * direction if j == i else x for j, x in enumerate(inputs)]
        held = iter(constants)
        with holding(lambda _: next(held)):
            return np.sum(cotangent * function(*map(Tensor, moved)).data)

    h = 1e-3 / max(1.0, float(np.max(np.abs(direction), initial=0.0)))
    return float(8 * (phi(h) - phi(-h)) - (phi(2 * h) - phi(-2 * h))) / (12 * h)
