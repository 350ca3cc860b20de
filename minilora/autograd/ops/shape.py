"""Ops that rearrange or select entries without changing them. Their rules move gradients back to these entries."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd.operation import op
from minilora.backend import Array, array_module


@op
def reshape(x: Array, shape: tuple[int, ...]) -> Any:
    """Reshape x; one length may be -1."""
    return x.reshape(shape), (lambda g: g.reshape(x.shape),)


@op
def transpose(x: Array, axes: tuple[int, ...] | None = None) -> Any:
    """Permute the axes, or reverse them if `axes` is None."""
    axes = tuple(range(x.ndim))[::-1] if axes is None else axes
    inverse = tuple(sorted(range(x.ndim), key=lambda i: axes[i] % x.ndim))
    return np.transpose(x, axes), (lambda g: np.transpose(g, inverse),)


@op
def index(x: Array, key: Any) -> Any:
    """x[key], for slices, integers, integer arrays and masks. Gradients of an entry selected more than once add up."""

    def pull(g: Array) -> Array:
        gx = np.zeros_like(x)
        if _may_repeat(key):
            array_module(gx).add.at(gx, key, g)  # CuPy, called through np.add.at, rejects tuple keys
        else:
            gx[key] = g
        return gx

    return x[key], (pull,)


def _may_repeat(key: Any) -> bool:
    """Return whether a key can select an entry more than once, which only lists and arrays can."""
    parts = key if isinstance(key, tuple) else (key,)
    return any(not isinstance(part, int | slice | type(None) | type(Ellipsis)) for part in parts)


@op
def concatenate(*xs: Array, axis: int = 0) -> Any:
    """Join arrays along an existing axis. Each input receives its slice of the gradient."""
    ends = np.cumsum([x.shape[axis] for x in xs])

    def stretch(i: int) -> Any:
        where = [slice(None)] * xs[i].ndim
        where[axis] = slice(int(ends[i]) - xs[i].shape[axis], int(ends[i]))
        return lambda g: g[tuple(where)]

    return np.concatenate(xs, axis=axis), tuple(stretch(i) for i in range(len(xs)))
