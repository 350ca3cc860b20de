"""Ops that move numbers without changing them. Pulling back moves the gradient the other way."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd.tensor import op
from minilora.backend import Array, array_module


@op
def reshape(x: Array, shape: tuple[int, ...]) -> Any:
    """The same numbers in another shape; one length may be -1."""
    return x.reshape(shape), (lambda g: g.reshape(x.shape),)


@op
def transpose(x: Array, axes: tuple[int, ...] | None = None) -> Any:
    """Axes in another order; reversed when none is given."""
    axes = tuple(range(x.ndim))[::-1] if axes is None else axes
    inverse = tuple(sorted(range(x.ndim), key=lambda i: axes[i] % x.ndim))
    return np.transpose(x, axes), (lambda g: np.transpose(g, inverse),)


@op
def index(x: Array, key: Any) -> Any:
    """x[key]: slices, integers, integer arrays, masks. An entry taken twice gets both gradients."""

    def pull(g: Array) -> Array:
        gx = np.zeros_like(x)
        if _may_repeat(key):
            array_module(gx).add.at(gx, key, g)  # called by way of NumPy, CuPy's takes no key of several parts
        else:
            gx[key] = g
        return gx

    return x[key], (pull,)


def _may_repeat(key: Any) -> bool:
    """Whether an index can name an entry twice: only lists and arrays can."""
    parts = key if isinstance(key, tuple) else (key,)
    return any(not isinstance(part, int | slice | type(None) | type(Ellipsis)) for part in parts)


@op
def concatenate(*xs: Array, axis: int = 0) -> Any:
    """Join along an axis that exists. Each part gets its stretch of the gradient."""
    ends = np.cumsum([x.shape[axis] for x in xs])

    def stretch(i: int) -> Any:
        where = [slice(None)] * xs[i].ndim
        where[axis] = slice(int(ends[i]) - xs[i].shape[axis], int(ends[i]))
        return lambda g: g[tuple(where)]

    return np.concatenate(xs, axis=axis), tuple(stretch(i) for i in range(len(xs)))
