"""Reductions: sum, mean, max."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from minilora.autograd.operation import op
from minilora.backend import Array

Axis: TypeAlias = int | tuple[int, ...] | None


@op
def sum(x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over `axis`. Every summand receives the gradient of the sum."""
    return np.sum(x, axis=axis, keepdims=keepdims), (
        lambda g: np.broadcast_to(_restore(g, x, axis, keepdims), x.shape),
    )


@op
def mean(x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Mean over `axis`: the sum divided by the number of summands."""
    y = np.mean(x, axis=axis, keepdims=keepdims)
    count = x.size // (y.size or 1)
    return y, (lambda g: np.broadcast_to(_restore(g, x, axis, keepdims) / count, x.shape),)


@op
def max(x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Maximum over `axis`. Entries tied for the maximum share the gradient equally."""
    y = np.max(x, axis=axis, keepdims=keepdims)

    def pull(g: Array) -> Array:
        winners = x == _restore(y, x, axis, keepdims)
        shares = np.sum(winners, axis=axis, keepdims=True, dtype=x.dtype)
        return winners * (_restore(g, x, axis, keepdims) / shares)

    return y, (pull,)


def _restore(y: Array, x: Array, axis: Axis, keepdims: bool) -> Array:
    """Reinsert, with length 1, the axes of x that the reduction to y removed."""
    if keepdims:
        return y
    reduced = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    return np.expand_dims(y, tuple(reduced))
