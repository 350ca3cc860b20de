"""A different adapter for each row of a batch: `model(ids, adapters=["bard", None, {"bard": 0.5, "recipe": 0.5}])`.

        h[i] = W x[i] + s[i] B[i] A[i] x[i]        A[i] and s[i]·B[i] are gathered from a table

W x is computed once for the entire batch. The updates with factors are computed by two batched matrix products, without
a loop over rows or adapters (Punica, Chen et al. 2023, section 4; S-LoRA, Sheng et al. 2023, section 5). Each update
without factors is computed once, on the rows that use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from minilora.adapters.update import Factors, Update
from minilora.autograd import ops
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, like
from minilora.nn import Linear
from minilora.nn.choice import RowChoice


class RowSubset(NamedTuple):
    """An update without factors, the indices (n,) of the rows that use it, and their strengths (n,).

    If all rows use the same adapters, `rows` is None and there is only one strength.
    """

    update: Update
    rows: Array | None
    strengths: Array


class RowUpdates:
    """The updates of one Linear layer for each row of a batch.

    Attributes
    ----------
    table : A (batch, R, in) and s·Bᵀ (batch, R, out) of each row, where R is the largest total rank of any row. If all
        rows use the same adapters, the batch axis has length 1. None if no update has factors
    others : the updates without factors
    """

    def __init__(self, updates: Mapping[str, Update], base: Linear, rows: RowChoice) -> None:
        self.base, self.rows = base, rows
        choices = [{updates[name]: s for name, s in choice.items() if name in updates} for choice in rows.distinct]
        factors = {update: update.factors(base) for choice in choices for update in choice}
        self._thin = [[(f, s) for update, s in choice.items() if (f := factors[update])] for choice in choices]
        self.others = [_subset(update, choices, rows) for update, known in factors.items() if known is None]

    def add(self, h: Tensor, x: Tensor) -> Tensor:
        """Return h plus each row's updates, for x (batch, ..., in) and h = W x (batch, ..., out)."""
        total = h
        if self.table is not None:
            A, B = self.table
            per_row = x.reshape(x.shape[0], -1, x.shape[-1])  # (batch, ..., in) -> (batch, tokens, in)
            low = per_row @ A.transpose(0, 2, 1)  # (batch, tokens, in) @ (batch, in, R)
            total = h + (low @ B).reshape(*h.shape)  # (batch, tokens, R) @ (batch, R, out)
        return self.add_others(total, h, x)

    def add_others(self, total: Tensor, h: Tensor, x: Tensor) -> Tensor:
        """Return `total` plus each row's updates without factors."""
        for update, rows, strengths in self.others:
            some_x, some_h = (x, h) if rows is None else (x[like(rows, x.data)], h[like(rows, x.data)])
            u = update.apply(some_x, some_h, self.base)  # (n, ..., out)
            u = u * like(strengths.astype(x.dtype), x.data).reshape(-1, *(1,) * (u.ndim - 1))
            total = total + (u if rows is None else _scattered(u, rows, x.shape[0]))
        return total

    @cached_property
    def table(self) -> tuple[Tensor, Tensor] | None:
        if not any(self._thin):
            return None
        A, B = self._tables(self._thin)
        if len(self._thin) == 1:
            return A, B
        index = like(self.rows.index, A.data)
        return A[index], B[index]

    def _tables(self, choices: list[list[tuple[Factors, float]]]) -> tuple[Tensor, Tensor]:
        """Return A (choices, R, in) and s·Bᵀ (choices, R, out), given the factors and their strengths for each choice.

        The factors of one choice are concatenated along the rank, so that the matrix product is the sum of the updates,
        and padded with zeros to R.
        """
        ranks = [sum(f.A.shape[0] for f, _ in choice) for choice in choices]
        n, R = len(choices), max(ranks)
        first = next(f.A.data for choice in choices for f, _ in choice)
        parts_A: list[Tensor] = []
        parts_B: list[Tensor] = []
        scales = np.zeros_like(first, shape=(n * R, 1))
        for i, (choice, rank) in enumerate(zip(choices, ranks, strict=True)):
            offset = i * R
            for f, strength in choice:
                parts_A.append(f.A)
                parts_B.append(f.B)
                scales[offset : offset + f.A.shape[0]] = strength * f.scale
                offset += f.A.shape[0]
            if rank < R:
                parts_A.append(Tensor(np.zeros_like(first, shape=(R - rank, self.base.in_features))))
                parts_B.append(Tensor(np.zeros_like(first, shape=(self.base.out_features, R - rank))))
        A = ops.concatenate(*parts_A).reshape(n, R, self.base.in_features)  # (n·R, in) -> (n, R, in)
        B = ops.concatenate(*parts_B, axis=1).T * scales  # (out, n·R) -> (n·R, out)
        return A, B.reshape(n, R, self.base.out_features)  # (n·R, out) -> (n, R, out)


def _subset(update: Update, choices: list[dict[Update, float]], rows: RowChoice) -> RowSubset:
    """Return the rows that use `update`, with its strength in each."""
    if len(choices) == 1:
        return RowSubset(update, None, np.array([choices[0][update]]))
    using = np.flatnonzero([update in choices[i] for i in rows.index])
    return RowSubset(update, using, np.array([choices[i][update] for i in rows.index[using]]))


def _scattered(part: Tensor, rows: Array, batch: int) -> Tensor:
    """Return a tensor (batch, ...) that equals `part` (n, ...) at the indices `rows` and is zero elsewhere."""
    source = np.zeros(batch, dtype=np.intp)  # index 0 is a row of zeros
    source[rows] = np.arange(1, len(rows) + 1)
    zero = Tensor(np.zeros_like(part.data, shape=(1, *part.shape[1:])))
    return ops.concatenate(zero, part)[like(source, part.data)]
