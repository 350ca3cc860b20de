"""Linear layers and the updates of each row's adapters, computed as matrix products on plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from minilora.adapters.host import AdaptedLinear
from minilora.adapters.rows import RowUpdates
from minilora.adapters.update import Factors
from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.nn import Linear
from minilora.nn.choice import row_choice

SMALL = 2**18
"""BLAS treats matmuls with fewer multiplications than this as small. In larger ones, operand order affects speed."""

Found: TypeAlias = list[list[tuple[Factors, float]]]
"""For each linear, the factors and strengths of a row's updates."""


class Products:
    """x Wᵀ for several linears with the same input, plus the updates of each row's adapters.

    Attributes
    ----------
    A : the factors A of each row, those of all linears stacked: (rows, sum of R, in). None if no update has factors
    B : for each adapted linear, its index, its slice of the ranks in A, and s·Bᵀ of each row, (rows, R, out)
    others : (index, RowUpdates) of each linear that has updates without factors

    Where a row's rank is below R, A and B are padded with zeros. A and B may have spare rows. They have a single row if
    all rows of the batch use the same adapters.
    """

    def __init__(self, linears: list[Linear]) -> None:
        self.products = [_product(linear) for linear in linears]
        hosts = ((i, linear) for i, linear in enumerate(linears) if isinstance(linear, AdaptedLinear))
        self.hosts = [(i, host) for i, host in hosts if not host.merged]  # merged updates are part of W
        self.A: Array | None = None
        self.B: list[tuple[int, slice, Array]] = []
        self.others: list[tuple[int, RowUpdates]] = []

    def choose(self, choices: list[dict[str, float]], changed: Sequence[int]) -> None:
        """Set the adapters of each row; only rows in `changed` have new ones. A single entry applies to all rows."""
        if not self.hosts:
            return
        found = {row: self._factors(choices[row]) for row in changed}
        if not self._fits(len(choices), found):
            found = {row: self._factors(choice) for row, choice in enumerate(choices)}
            self._make_room(list(found.values()))
        for row, factors in found.items():
            self._put(row, factors)
        uses = (host.acting(choices[row]) for row in changed for _, host in self.hosts)
        had = (factors for row in changed for factors in found[row])
        if self.others or any(len(used) > len(factors) for used, factors in zip(uses, had, strict=True)):
            updates = [(i, host.row_updates(row_choice(choices))) for i, host in self.hosts]
            self.others = [(i, update) for i, update in updates if update.others]

    def _factors(self, choice: dict[str, float]) -> Found:
        """Return, for each linear, the factors and strengths of the updates that have factors."""
        return [
            [(f, strength) for update, strength in host.acting(choice) if (f := update.factors(host.base))]
            for _, host in self.hosts
        ]

    def _fits(self, rows: int, found: Mapping[int, Found]) -> bool:
        """Whether A and B are large enough for this many rows and for the ranks in `found`."""
        room = 0 if self.A is None else len(self.A)
        enough = room >= rows and (room == 1) == (rows == 1)
        parts = [part.stop - part.start for _, part, _ in self.B]
        return enough and all(_ranks(factors)[h] <= part for factors in found.values() for h, part in enumerate(parts))

    def _make_room(self, found: list[Found]) -> None:
        """Allocate A and B for rows with these factors; for several rows, the capacity grows by at least half."""
        ranks = np.max([_ranks(factors) for factors in found], axis=0)
        had, self.A, self.B = 0 if self.A is None else len(self.A), None, []
        if not ranks.any():
            return
        like = next(f.A.data for factors in found for some in factors for f, _ in some)
        room, ends = max(len(found), had + had // 2 if len(found) > 1 else 0), np.cumsum(ranks).tolist()
        self.A = np.empty_like(like, shape=(room, ends[-1], self.hosts[0][1].in_features))
        for (i, host), rank, end in zip(self.hosts, ranks.tolist(), ends, strict=True):
            B = np.empty_like(like, shape=(room, rank, host.out_features))
            self.B.append((i, slice(end - rank, end), B))

    def _put(self, row: int, found: Found) -> None:
        """Store the factors of one row; those of several adapters are stacked."""
        if self.A is None:
            return
        for (_, part, Bs), some in zip(self.B, found, strict=True):
            A, B, end = self.A[row, part], Bs[row], 0
            for f, strength in some:
                start, end = end, end + len(f.A.data)
                A[start:end] = f.A.data
                np.multiply(f.B.data.T, strength * f.scale, out=B[start:end])
            A[end:], B[end:] = 0, 0

    def __call__(self, x: Array) -> list[Array]:
        ys = [product(x) for product in self.products]
        hs = [(i, update, Tensor(ys[i].copy())) for i, update in self.others] if self.others else ()
        if self.A is not None:
            self._add_low_rank(ys, x)
        for i, update, h in hs:
            ys[i] = update.add_others(Tensor(ys[i]), h, Tensor(x)).data
        return ys

    def _add_low_rank(self, ys: list[Array], x: Array) -> None:
        assert self.A is not None
        if len(self.A) == 1:  # all rows share A and B
            low = x @ self.A[0].T  # (N, in) -> (N, sum of R)
            for i, part, B in self.B:
                ys[i] += low[:, part] @ B[0]
        else:
            N = len(x)
            low = (self.A[:N] @ x[:, :, None])[:, None, :, 0]  # (N, sum of R, in) @ (N, in, 1) -> (N, 1, sum of R)
            for i, part, B in self.B:
                ys[i] += (low[:, :, part] @ B[:N])[:, 0]  # (N, 1, R) @ (N, R, out) -> (N, out)


def _ranks(found: Found) -> list[int]:
    """Return the total rank of the updates of each linear."""
    return [sum(len(f.A.data) for f, _ in some) for some in found]


def _product(linear: Linear) -> Callable[[Array], Array]:
    """Return x -> x Wᵀ on arrays. A Linear with its own `forward`, for example for a quantized W, is called instead."""
    if isinstance(linear, AdaptedLinear) and not linear.merged:
        return _product(linear.base)
    if "forward" in vars(linear) or type(linear).forward not in (Linear.forward, AdaptedLinear.forward):
        return lambda x: linear(Tensor(x)).data
    weight = linear.weight.data

    def product(x: Array) -> Array:
        if len(x) == 1 or len(x) * weight.size < SMALL:
            return x.dot(weight.T)  # half a microsecond less overhead than `@`
        return np.ascontiguousarray(weight.dot(x.T).T)  # with the larger matrix first, about half the time

    return product
