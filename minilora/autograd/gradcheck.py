"""gradcheck: compare gradients with finite differences.

For a function f and a random cotangent c, the rules give the gradient of φ(x) = Σ c f(x). The slope of φ along a random
direction d is also (φ(x + hd) - φ(x - hd)) / 2h, up to rounding and terms of order h² (the implementation combines two
step sizes, which leaves terms of order h⁴). A random direction exposes an error in any entry. A plain `.sum()` in place
of c would miss a transposed or permuted gradient. Values that f passes through `stop_gradient` are
held constant at their values for x.
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
    """Return the largest relative error of the gradients of `function`, compared with finite differences.

    Parameters
    ----------
    function : accepts one Tensor per input and returns a Tensor of any shape
    inputs : float64 arrays of unit scale; small values would hide errors
    rng : generator for the cotangent and the directions
    directions : the number of random directions for each input

    Returns
    -------
    The largest |claimed slope - measured slope| / scale over inputs and directions. The scale is the norm of the
    claimed gradient, which is the typical size of a slope along a random direction, or |measured slope| if that is
    larger. Correct rules stay below 1e-7. The result is nan if a gradient is nan.
    """
    for x in inputs:
        if x.dtype != np.float64:
            raise TypeError(
                f"gradcheck() expects float64 inputs, got {x.dtype}: rounding would dominate the comparison"
            )
    leaves = [Tensor(x.copy(), requires_grad=True) for x in inputs]
    constants: list[Any] = []

    def note(value: Any) -> Any:
        constants.append(value)
        return value

    with holding(note):
        output = function(*leaves)
    cotangent = np.asarray(rng.standard_normal(output.shape))
    claimed = gradients(output, leaves, cotangent)
    # If the true slope is zero, only rounding errors remain, up to about 1e-12 Σ |c f|. With the floor, such an
    # error counts as less than 1e-7.
    floor = 1e-4 * float(np.sum(np.abs(cotangent * output.data)))
    errors = [0.0]
    for i, g in enumerate(claimed):
        for _ in range(directions):
            direction = np.asarray(rng.standard_normal(g.shape))
            slope = _measured_slope(function, inputs, i, direction, cotangent, constants)
            error = abs(float(np.sum(g * direction)) - slope)
            errors.append(error / max(abs(slope), float(np.linalg.norm(g)), floor, 1e-300))
    return float(np.max(errors))  # unlike Python's max, propagates nan


def _measured_slope(
    function: Callable[..., Tensor],
    inputs: Sequence[Array],
    i: int,
    direction: Array,
    cotangent: Array,
    constants: Sequence[Any],
) -> float:
    """Return d/dh Σ c f(x + h d) at h = 0, by a fourth-order central difference."""

    def phi(h: float) -> Any:
        moved = [x + h * direction if j == i else x for j, x in enumerate(inputs)]
        held = iter(constants)
        with holding(lambda _: next(held)):
            return np.sum(cotangent * function(*map(Tensor, moved)).data)

    h = 1e-3 / max(1.0, float(np.max(np.abs(direction), initial=0.0)))
    return float(8 * (phi(h) - phi(-h)) - (phi(2 * h) - phi(-2 * h))) / (12 * h)
