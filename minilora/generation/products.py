"""Linears and the updates of each row's adapters, as matrix products on plain arrays."""

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
"""Multiplications below which BLAS treats a product as small; above, the order of the operands affects the speed."""

Found: TypeAlias = list[list[tuple[Factors, float]]]
"""For each linear, the factors and strengths of a row's updates."""


class Products:
    """x Wᵀ for several linears with the same input, plus the updates of each row's adapters.

    Attributes
    ----------
    A, B : of updates with factors, for each row A (sum of R, in), the linears one after the other, and for each linear
        s·Bᵀ (R, out); with zeros where a row has less than rank R, and room for more rows. A single row is that of all
    others : (index, RowUpdates) of each linear that has updates without factors
    """

    def __init__(self, linears: list[Linear]) -> None:
        self.products = [_product(linear) for linear in linears]
        hosts = ((i, linear) for i, linear in enumerate(linears) if isinstance(linear, AdaptedLinear))
        self.hosts = [(i, host) for i, host in hosts if not host.merged]  # W has the merged ones
        self.A: Array | None = None
        self.B: list[tuple[int, slice, Array]] = []
        self.others: list[tuple[int, RowUpdates]] = []

    def choose(self, choices: list[dict[str, float]], changed: Sequence[int]) -> None:
        """Set the adapters of each row; only those in `changed` have new ones. A single choice is for all rows."""
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
        """For each linear, the factors and the strengths of those updates that have any."""
        return [
            [(f, strength) for update, strength in host.acting(choice) if (f := update.factors(host.base))]
            for _, host in self.hosts
        ]

    def _fits(self, rows: int, found: Mapping[int, Found]) -> bool:
        """Whether there is room for so many rows, and for what some of them use."""
        room = 0 if self.A is None else len(self.A)
        enough = room >= rows and (room == 1) == (rows == 1)
        parts = [part.stop - part.start for _, part, _ in self.B]
        return enough and all(_ranks(factors)[h] <= part for factors in found.values() for h, part in enumerate(parts))

    def _make_room(self, found: list[Found]) -> None:
        """Allocate A and B for rows with these factors; a batch that grows gets at least half as much room again."""
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
        """Write the factors of one row; those of several adapters are stacked."""
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
        if len(self.A) == 1:  # the same for all rows
            low = x @ self.A[0].T  # (N, in) -> (N, sum of R)
            for i, part, B in self.B:
                ys[i] += low[:, part] @ B[0]
        else:
            N = len(x)
            low = (self.A[:N] @ x[:, :, None])[:, None, :, 0]  # (N, sum of R, in) @ (N, in, 1) -> (N, 1, sum of R)
            for i, part, B in self.B:
                ys[i] += (low[:, :, part] @ B[:N])[:, 0]  # (N, 1, R) @ (N, R, out) -> (N, out)


def _ranks(found: Found) -> list[int]:
    """For each linear, the rank that all its updates have together."""
    return [sum(len(f.A.data) for f, _ in some) for some in found]


def _product(linear: Linear) -> Callable[[Array], Array]:
    """x -> x Wᵀ on arrays. A Linear that stores W in another form computes it by itself."""
    if isinstance(linear, AdaptedLinear) and not linear.merged:
        return _product(linear.base)
    if "forward" in vars(linear) or type(linear).forward not in (Linear.forward, AdaptedLinear.forward):
        return lambda x: linear(Tensor(x)).data
    weight = linear.weight.data

    def product(x: Array) -> Array:
        if len(x) == 1 or len(x) * weight.size < SMALL:
            return x.dot(weight.T)  # for so small a product half a microsecond less than `@`
        return np.ascontiguousarray(weight.dot(x.T).T)  # with the larger matrix in front, about half as long

    return product
