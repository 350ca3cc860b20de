"""Matrix products: matmul, linear, and embedding, which is equivalent to a product with a one-hot matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd.operation import op
from minilora.backend import Array, device_of


@op
def matmul(x: Array, y: Array) -> Any:
    """x @ y over the last two axes, (..., n, k) @ (..., k, m) -> (..., n, m); leading axes broadcast.

    With Z = XY: dX = G Yᵀ and dY = Xᵀ G. Vectors must be reshaped to one-row or one-column matrices.
    """
    if x.ndim < 2 or y.ndim < 2:
        raise ValueError(f"matmul() expects matrices, got shapes {x.shape} and {y.shape}; reshape vectors to (1, n)")
    return x @ y, (lambda g: g @ np.swapaxes(y, -1, -2), lambda g: np.swapaxes(x, -1, -2) @ g)


@op
def linear(x: Array, weight: Array) -> Any:
    """y = x Wᵀ. x is (..., in), W is (out, in), y is (..., out).

    The leading axes index tokens. With the tokens as the rows of X: dX = G W and dW = Gᵀ X = Σ over tokens of g xᵀ.
    """
    n_out, n_in = weight.shape
    if x.shape[-1] != n_in:
        raise ValueError(
            f"linear() expects {n_in} features for a weight of shape {weight.shape}, got x of shape {x.shape}"
        )
    rows = x.reshape(-1, n_in)  # (..., in) -> (tokens, in)
    y = (rows @ weight.T).reshape(*x.shape[:-1], n_out)
    return y, (
        lambda g: (g.reshape(-1, n_out) @ weight).reshape(x.shape),
        lambda g: g.reshape(-1, n_out).T @ rows,
    )


@op
def embedding(weight: Array, ids: Any) -> Any:
    """Look up rows of a table: weight is (vocabulary, C), ids are integers of any shape (...), the output is (..., C).

    The gradient of a row is the sum over all positions of its id. On the CPU, the positions are sorted by id and runs
    of equal ids are summed with `reduceat`, which handles repeated ids correctly and is much faster than `np.add.at`.
    On a GPU, `add.at` is fast, while `reduceat` takes differences of a cumulative sum and loses accuracy to rounding.
    """
    n_rows, ids = weight.shape[0], as_ids(ids)
    if ids.size and not (ids.min() >= 0 and ids.max() < n_rows):
        raise ValueError(f"expected ids from 0 to {n_rows - 1}, got ids from {ids.min()} to {ids.max()}")

    def pull(g: Array) -> Array:
        gw = np.zeros_like(weight)
        if device_of(gw) == "cuda":
            np.add.at(gw, ids, g)
            return gw
        places = np.argsort(ids.reshape(-1), kind="stable")
        in_order = ids.reshape(-1)[places]
        starts = np.flatnonzero(np.diff(in_order, prepend=-1))  # the start of each run of equal ids
        if starts.size:
            gw[in_order[starts]] = np.add.reduceat(g.reshape(-1, g.shape[-1])[places], starts, axis=0)
        return gw

    return weight[ids], (pull,)


def as_ids(ids: Any) -> Array:
    """Convert integers, lists of them and array-likes to an integer array. Raises TypeError for anything else."""
    array = ids if hasattr(ids, "dtype") and (type(ids) is np.ndarray or device_of(ids) != "cpu") else np.asarray(ids)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"expected integer ids, got {array.dtype}")
    return array if array.size else array.astype(np.int64)
