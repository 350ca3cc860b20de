"""Counts of trainable and total parameters, by kind of module."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from minilora.autograd.tensor import Tensor
from minilora.messages import html_table
from minilora.nn import Module
from minilora.nn.module import check_module

_HEAD = "module", "weight", "trainable", "total", "percent"


@dataclass(frozen=True)
class Count:
    """The parameter counts of one kind of module. `path` has * in place of the layer index.

    `modules` is the number of modules that match `path`. A weight already counted in another row, such as that of a
    tied output head, is excluded from `total`, and the row is marked as `shared`.
    """

    path: str
    modules: int
    shape: tuple[int, ...]
    trainable: int
    total: int
    shared: bool = False


@dataclass(frozen=True)
class Report:
    """Parameter counts. `print` shows them as a table."""

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

    def __repr__(self) -> str:
        return f"Report({self.trainable:,} of {self.total:,} parameters are trainable, {self.percent:.2f}%)"

    def _repr_html_(self) -> str:
        return html_table(_HEAD, self._cells())

    def __str__(self) -> str:
        cells = [_HEAD, *self._cells()]
        path, *widths = (max(len(row[i]) for row in cells) for i in range(len(_HEAD)))
        lines = (
            "  ".join([row[0].ljust(path), *(cell.rjust(n) for cell, n in zip(row[1:], widths, strict=True))])
            for row in cells
        )
        return "\n".join(lines)

    def _cells(self) -> list[tuple[str, ...]]:
        """The table's rows as text; the last one is the total."""
        rows = []
        for row in self.rows:
            shape = (f"{row.modules} × " if row.modules > 1 else "") + "×".join(map(str, row.shape))
            percent = "shared" if row.shared else f"{100 * row.trainable / row.total:.2f}%"
            rows.append((row.path, shape, f"{row.trainable:,}", f"{row.total:,}", percent))
        return [*rows, ("all", "", f"{self.trainable:,}", f"{self.total:,}", f"{self.percent:.2f}%")]


def report(model: Module) -> Report:
    """Count the trainable and total parameters, by kind of module and in total; a shared parameter counts once.

    A weight (out, in) with a LoRA adapter of rank r has in·out + r (in + out) parameters, of which r (in + out) are
    trainable.
    """
    check_module(model)
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
    """Combine the rows of one kind of module into a single row."""
    trainable, total = (sum(getattr(row, name) for row in rows) for name in ("trainable", "total"))
    return Count(rows[0].path, len(rows), rows[0].shape, trainable, total, rows[0].shared)
