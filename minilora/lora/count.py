"""How many numbers are trained: the table that LoRA is famous for."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from minilora.autograd.tensor import Tensor
from minilora.nn import Module


@dataclass(frozen=True)
class Row:
    """Parameters of the modules of one kind: `layers` many of them share this path with the layer's number as *."""

    path: str
    modules: int
    shape: tuple[int, ...]
    trainable: int
    total: int


@dataclass(frozen=True)
class Report:
    """Counts of parameters. `print` it for a table."""

    rows: tuple[Row, ...]

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
            percent = 100 * row.trainable / row.total
            lines.append(f"{row.path:{width}}  {shape:>11}  {row.trainable:>10,}  {row.total:>11,}  {percent:>7.2f}%")
        lines.append(f"{'all':{width}}  {'':>11}  {self.trainable:>10,}  {self.total:>11,}  {self.percent:>7.2f}%")
        return "\n".join(lines)


def report(model: Module) -> Report:
    """Trainable and total parameters, per kind of module and in all; a shared parameter counts once.

    An adapted (out, in) weight with an adapter of rank r has in·out + r(in + out) parameters, of which r(in + out)
    are trained.
    """
    groups: dict[str, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, p in model.named_parameters():
        path = re.sub(r"\.(weight|lora_[AB]\..*)$", "", name)
        groups[re.sub(r"\.\d+\.", ".*.", path)].append((path, p))
    return Report(tuple(_row(path, parts) for path, parts in groups.items()))


def _row(path: str, parts: list[tuple[str, Tensor]]) -> Row:
    parameters = [p for _, p in parts]
    trainable = sum(p.size for p in parameters if p.requires_grad)
    modules = len({path for path, _ in parts})
    return Row(path, modules, parameters[0].shape, trainable, sum(p.size for p in parameters))
