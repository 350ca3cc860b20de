"""The adapted Linear layer: a frozen Linear, and the updates attached to it, keyed by adapter name.

        h = W x + Σ strength · u(x)        over the active updates, each computed from x and W x

This layer implements the functionality shared by all adapter methods: active updates and their strengths, dropout on
the input of an update, merging, and different adapters per row (`rows.py`). Each update computes its own u(x)
(`update.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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
    base : the frozen Linear. Its parameters are exposed as parameters of this layer, so their names do not change
    updates, config : the update and the config of each adapter, by name
    active : the strengths of the active adapters, by name
    merged_weight : W + Σ strength · ΔW while adapters are merged, else None

    The attributes of the updates are available as dicts by adapter name: `layer.lora_A["bard"]` is the A of "bard". The
    name of this parameter is `<path>.lora_A.bard`.
    """

    def __init__(self, base: Linear) -> None:
        self.base = base
        self.updates: dict[str, Update] = {}
        self.config: dict[str, Method] = {}
        self.active: dict[str, float] = {}
        self.merged_weight: Tensor | None = None

    def __repr__(self) -> str:
        labels = [f"{name!r}: {config.label}" for name, config in self.config.items()]
        state = "merged" if self.merged else f"active={self.active}"
        return f"{type(self).__name__}({self.base}, {{{', '.join(labels)}}}, {state})"

    def __getattr__(self, name: str) -> Any:
        updates = vars(self).get("updates", {})
        found = {adapter: vars(update)[name] for adapter, update in updates.items() if name in vars(update)}
        if not found:
            raise AttributeError(f"neither this layer nor any of its adapters has an attribute {name!r}")
        return found

    def _parts(self) -> Iterator[tuple[str, Tensor | Module]]:
        yield from self.base._parts()
        tables: dict[str, dict[str, Tensor]] = {}
        for adapter, update in self.updates.items():
            for name, tensor in update.tensors.items():
                tables.setdefault(name, {})[adapter] = tensor
        yield from ((f"{name}.{adapter}", t) for name, table in tables.items() for adapter, t in table.items())

    def named_modules(self, path: str = "") -> Iterator[tuple[str, Module]]:
        yield path, self  # no submodules; iterating over all parameters is slow with many adapters

    def attach(self, adapter: str, update: Update, config: Method) -> None:
        """Add an update, inactive and frozen until `activate`."""
        self.updates[adapter], self.config[adapter] = update, config
        update.set_trainable(False)

    def remove(self, adapter: str) -> None:
        """Remove an update."""
        for table in (self.updates, self.config, self.active):
            table.pop(adapter, None)

    def activate(self, strengths: Mapping[str, float]) -> None:
        """Set which updates are active; only these are trainable. Those active before keep their `requires_grad`."""
        for name, update in self.updates.items():
            if (name in strengths) != (name in self.active):
                update.set_trainable(name in strengths)
        self.active = {name: s for name, s in strengths.items() if name in self.updates}

    def forward(self, x: Tensor) -> Tensor:
        """Return h (..., out) for x (..., in)."""
        if self.merged_weight is not None:
            return ops.linear(x, self.merged_weight)
        rows = chosen()  # the adapters selected for this call; usually None
        if rows is not None and len(rows.distinct) > 1:
            return self.row_updates(rows).add(self.base(x), x)
        acting = self.acting(self.active if rows is None else rows.distinct[0])
        if len(acting) == 1 and not self._drops(acting[0][0]):
            ((update, strength),) = acting
            if factors := update.factors(self.base):
                return self.base.with_low_rank(x, factors.A, factors.B, strength * factors.scale)
        h = total = self.base(x)
        for update, strength in acting:
            total = total + self._scaled(update, strength, x, h)
        return total

    def _scaled(self, update: Update, strength: float, x: Tensor, h: Tensor) -> Tensor:
        """Return strength · u(x), with dropout on x in training."""
        if dropped := self._drops(update):
            assert self.rng is not None
            x = ops.dropout(x, update.dropout, self.rng)
        if factors := update.factors(self.base):  # scale the rank-r intermediate, the smallest array
            return ops.linear(ops.linear(x, factors.A) * (strength * factors.scale), factors.B)
        return update.apply(x, None if dropped else h, self.base) * strength

    def _drops(self, update: Update) -> bool:
        """Return whether dropout currently applies to the input of this update."""
        return update.dropout > 0 and self.rng is not None

    def acting(self, strengths: Mapping[str, float]) -> list[tuple[Update, float]]:
        """Return the updates of this layer named in `strengths`, with their strengths."""
        return [(self.updates[name], s) for name, s in strengths.items() if name in self.updates]

    def row_updates(self, rows: RowChoice) -> RowUpdates:
        """Return the updates for each row of a batch. Raises AdapterError if dropout applies to one of them."""
        if any(self._drops(update) for choice in rows.distinct for update, _ in self.acting(choice)):
            raise AdapterError("different adapters per row are not supported with dropout; call model.eval() first")
        return RowUpdates(self.updates, self.base, rows)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The effective weight (out, in): W, or while adapters are merged W + Σ strength · ΔW."""
        return self.base.dense() if self.merged_weight is None else self.merged_weight

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    @no_grad()
    def delta(self, adapter: str) -> Array:
        """Return ΔW (out, in) of one adapter. Raises AdapterError if its update has no ΔW."""
        delta = self.updates[adapter].delta(self.base)
        if delta is None:
            raise AdapterError(f"{adapter!r} cannot be merged: its update is not linear in the input, so it has no ΔW")
        return delta.data

    def merge(self) -> None:
        """Use W + Σ strength · ΔW of the active updates as the weight. W is kept."""
        self.merged_weight = self.sum_weights()

    def unmerge(self) -> None:
        """Use W as the weight again; it is still the same array."""
        self.merged_weight = None

    def sum_weights(self) -> Tensor:
        """Return W + Σ strength · ΔW of the active updates, as a new array.

        Raises AdapterError if an update has no ΔW, or if the base layer overrides `forward` but not `dense`.
        """
        kind = type(self.base)
        if kind.forward is not Linear.forward and kind.dense is Linear.dense:
            raise AdapterError(f"cannot merge into a {kind.__name__}: it overrides forward(); override dense() as well")
        total = self.base.dense().data.copy()
        for adapter, strength in self.active.items():
            total += strength * self.delta(adapter)
        return Tensor(total)

    @property
    def adapters(self) -> list[str]:
        return list(self.updates)

    @property
    def active_adapters(self) -> dict[str, float]:
        return dict(self.active)

    @property
    def merged(self) -> bool:
        return self.merged_weight is not None
