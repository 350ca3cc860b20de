"""How many parameters are trained: the table that LoRA is famous for."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from minilora.autograd.tensor import Tensor
from minilora.nn import Module


@dataclass(frozen=True)
class Count:
    """Parameters of the modules of one kind: so many `modules` share this path, with the layer's number as *.

    A weight that another row has counted already, such as a tied output head's, is `shared` and not in `total`.
    """

    path: str
    modules: int
    shape: tuple[int, ...]
    trainable: int
    total: int
    shared: bool = False


@dataclass(frozen=True)
class Report:
    """Counts of parameters. `print` it for a table."""

    rows: tuple[Count, ...]

    @property
    def trainable(self) -> int:
        return sum(row.trainable for row in self.rows)

    @property
    def total(self) -> int:
        return sum(row.total for row in self.rows)

    @property
    def percent(self) -> float:
        return 100 * self.trainable / self.total

    def __str__(self) -> str:
        width = max(len(row.path) for row in self.rows)
        lines = [f"{'module':{width}}  {'weight':>11}  {'trainable':>10}  {'total':>11}  {'percent':>8}"]
        for row in self.rows:
            count = f"{row.modules} × " if row.modules > 1 else ""
            shape = count + "×".join(map(str, row.shape))
            percent = "shared" if row.shared else f"{100 * row.trainable / row.total:.2f}%"
            lines.append(f"{row.path:{width}}  {shape:>11}  {row.trainable:>10,}  {row.total:>11,}  {percent:>8}")
        lines.append(f"{'all':{width}}  {'':>11}  {self.trainable:>10,}  {self.total:>11,}  {self.percent:>7.2f}%")
        return "\n".join(lines)


def report(model: Module) -> Report:
    """Trainable and total parameters, per kind of module and in all; a shared parameter counts once.

    An adapted (out, in) weight with an adapter of rank r has in·out + r(in + out) parameters, of which r(in + out)
    are trained.
    """
    seen: set[int] = set()
    groups: dict[str, list[Count]] = defaultdict(list)
    for path, module in model.named_modules():
        parts = [p for _, p in module._parts() if isinstance(p, Tensor)]
        if parts:
            own, shared = [p for p in parts if id(p) not in seen], id(parts[0]) in seen
            seen.update(id(p) for p in parts)
            trainable = sum(p.size for p in own if p.requires_grad)
            kind, total = re.sub(r"\.\d+\.", ".*.", path), sum(p.size for p in own)
            row = Count(kind, 1, parts[0].shape, trainable, total, shared)
            groups[row.path].append(row)
    return Report(tuple(_together(rows) for rows in groups.values() if sum(row.total for row in rows)))


def _together(rows: list[Count]) -> Count:
    """One row for the modules of one kind."""
    trainable, total = (sum(getattr(row, name) for row in rows) for name in ("trainable", "total"))
    return Count(rows[0].path, len(rows), rows[0].shape, trainable, total, rows[0].shared)
