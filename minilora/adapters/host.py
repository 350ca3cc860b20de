"""The host: a frozen Linear, and the updates attached to it by name.

        h = W x + Σ strength · u(x)        over the active updates, each of which sees x and W x

The host knows what all methods have in common: which updates act and how strongly, dropout on their input, merging, and
a choice of its own for each row of a batch (`rows.py`). What an update computes is the update's affair (`update.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minilora.adapters.method import Method
from minilora.adapters.rows import RowUpdates
from minilora.adapters.update import Update
from minilora.autograd import ops
from minilora.autograd.tensor import Tensor, no_grad
from minilora.backend import Array
from minilora.nn import Linear, Module
from minilora.nn.choice import RowChoice, chosen
from minilora.nn.module import AdapterError


class AdaptedLinear(Linear):
    """A frozen Linear with updates.

    Attributes
    ----------
    base : the Linear. Its parameters keep their names: they are parameters of the host
    updates, config : by adapter's name, the update and the settings that made it
    active : the adapters that act, with their strengths

    What an update holds, the host holds by adapter: `host.lora_A["bard"]` is the A of "bard", and its name as a
    parameter is `<path>.lora_A.bard`.
    """

    def __init__(self, base: Linear) -> None:
        self.base = base
        self.updates: dict[str, Update] = {}
        self.config: dict[str, Method] = {}
        self.active: dict[str, float] = {}
        self._merged: Tensor | None = None  # W + Σ strength · ΔW, while it acts in W's place

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            found = {adapter: vars(update)[name] for adapter, update in self.updates.items() if name in vars(update)}
            if found:
                return found
        raise AttributeError(f"neither this layer nor an adapter on it has {name!r}")

    def _parts(self) -> Iterator[tuple[str, Tensor | Module]]:
        yield from self.base._parts()
        tables: dict[str, dict[str, Tensor]] = {}
        for adapter, update in self.updates.items():
            for name, tensor in update.tensors.items():
                tables.setdefault(name, {})[adapter] = tensor
        yield from ((f"{name}.{adapter}", t) for name, table in tables.items() for adapter, t in table.items())

    def attach(self, adapter: str, update: Update, config: Method) -> None:
        """Add an update, which does not act yet."""
        self.updates[adapter], self.config[adapter] = update, config
        update.train_tensors(False)

    def detach(self, adapter: str) -> None:
        """Take an update out."""
        for table in (self.updates, self.config, self.active):
            table.pop(adapter, None)

    def activate(self, strengths: Mapping[str, float]) -> None:
        """Choose the updates that act and train. What was active already keeps what its user froze."""
        for name, update in self.updates.items():
            if (name in strengths) != (name in self.active):
                update.train_tensors(name in strengths)
        self.active = {name: s for name, s in strengths.items() if name in self.updates}

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> h (..., out)."""
        if self._merged is not None:
            return ops.linear(x, self._merged)
        rows = chosen()  # by this call; usually None
        if rows is not None and len(rows.distinct) > 1:
            return self.row_updates(rows).add(self.base(x), x)
        acting = self.acting(self.active if rows is None else rows.distinct[0])
        if len(acting) == 1 and not self._drops(acting[0][0]):
            ((update, strength),) = acting
            if factors := update.factors():
                return self.base.with_low_rank(x, factors.A, factors.B, strength * factors.scale)
        h = total = self.base(x)
        for update, strength in acting:
            total = total + self._scaled(update, strength, x, h)
        return total

    def row_updates(self, rows: RowChoice | None) -> RowUpdates:
        """What the adapters of each row add here; of the active ones where no choice was made."""
        if rows is None:
            rows = RowChoice((self.active,), np.zeros(1, dtype=np.intp))
        if any(self._drops(update) for choice in rows.distinct for update, _ in self.acting(choice)):
            raise AdapterError("adapters chosen row by row are computed without dropout; call model.eval() first")
        return RowUpdates(self.updates, self.base, rows)

    def acting(self, strengths: Mapping[str, float]) -> list[tuple[Update, float]]:
        """The updates here that a choice of adapters means, with their strengths."""
        return [(self.updates[name], s) for name, s in strengths.items() if name in self.updates]

    def _drops(self, update: Update) -> bool:
        """Whether dropout acts on this update's input now."""
        return update.dropout > 0 and self.rng is not None

    def _scaled(self, update: Update, strength: float, x: Tensor, h: Tensor) -> Tensor:
        """strength · u(x)."""
        known: Tensor | None = h
        if self._drops(update):
            assert self.rng is not None
            x, known = ops.dropout(x, update.dropout, self.rng), None
        if factors := update.factors():  # the scale goes to the r numbers in the middle, where it is cheapest
            return ops.linear(ops.linear(x, factors.A) * (strength * factors.scale), factors.B)
        return update.apply(x, known, self.base) * strength

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix (out, in) that acts: W, or while adapters are merged W + Σ strength · ΔW."""
        return self.base.dense() if self._merged is None else self._merged

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    @no_grad()
    def delta(self, adapter: str) -> Array:
        """ΔW (out, in) of one adapter. Raises AdapterError where its update is not a matrix."""
        delta = self.updates[adapter].delta(self.base)
        if delta is None:
            raise AdapterError(f"{adapter!r} cannot be merged: what it adds depends on the input, and is not a matrix")
        return delta.data

    @property
    def adapters(self) -> list[str]:
        return list(self.updates)

    @property
    def merged(self) -> bool:
        return self._merged is not None

    def merge(self) -> None:
        """Let W + Σ strength · ΔW of the active updates act in W's place. W is kept."""
        merged = self.base.dense().data.copy()
        for adapter, strength in self.active.items():
            merged += strength * self.delta(adapter)
        self._merged = Tensor(merged)

    def unmerge(self) -> None:
        """Let W act again: the same array, bit for bit."""
        self._merged = None
