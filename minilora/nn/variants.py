"""Adapters chosen for one call: `model(ids, adapters=["bard", None])`.

A module may hold named variants of itself, as LoRA's adapters are. A choice among them travels beside the call, in a
context variable: the layers in between need not hand it on, and calls in other threads see nothing of it. `nn` only
carries the choice; what a variant computes, its module knows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from minilora.autograd.tensor import Array

if TYPE_CHECKING:
    from minilora.nn.module import Module

Choice: TypeAlias = str | Mapping[str, float] | None
"""One adapter by name, several with strengths, or None for the base."""


class AdapterError(ValueError):
    """An adapter that cannot be made, found or loaded; the message says why and what to do."""


@dataclass(frozen=True)
class RowChoice:
    """What each row of a batch uses: row i uses distinct[index[i]], strengths by name; an empty one is the base.

    `kept` is for modules to keep what they have worked out for this choice, by their id: a text that is written asks
    for it again with every token.
    """

    distinct: tuple[dict[str, float], ...]
    index: Array  # (batch,)
    kept: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)


_chosen: ContextVar[RowChoice | None] = ContextVar("chosen", default=None)


def chosen() -> RowChoice | None:
    """The choice of the call that is running, or None where it has made none."""
    return _chosen.get()


@contextmanager
def choosing(rows: RowChoice) -> Iterator[None]:
    """Inside this block, and in this thread alone, modules with variants use those of `rows`."""
    token = _chosen.set(rows)
    try:
        yield
    finally:
        _chosen.reset(token)


def resolve(model: Module, adapters: RowChoice | Choice | Sequence[Choice], batch: int) -> RowChoice:
    """The choice for each of `batch` rows: a list has one for each; anything else holds for all.

    Raises AdapterError for an unknown name, a strength that is no finite number, a list of another length, or a model
    whose adapters are merged. A RowChoice has been through this, and passes.
    """
    if isinstance(adapters, RowChoice):
        return adapters
    modules = [module for _, module in model.named_modules()]
    for module in modules:
        if module.variants and module.fixed:
            raise AdapterError(f"cannot choose adapters for a call: {module.fixed}")
    known = list(dict.fromkeys(name for module in modules for name in module.variants))
    if adapters is None or isinstance(adapters, str | Mapping):
        adapters = [adapters] * batch
    if not isinstance(adapters, Sequence):  # a set would hand its names to the rows in any order
        raise AdapterError(f"expected a name, names with strengths, or a list of these, one a row, got {adapters!r}")
    if len(adapters) != batch:
        raise AdapterError(f"expected adapters for {batch} rows, one for each, got {len(adapters)}")
    rows = [strengths(choice, known) for choice in adapters]
    distinct: list[dict[str, float]] = []
    for row in rows:
        if row not in distinct:
            distinct.append(row)
    return RowChoice(tuple(distinct), np.array([distinct.index(row) for row in rows], dtype=np.intp))


def strengths(choice: Choice, known: Sequence[str]) -> dict[str, float]:
    """A choice as strengths by name. Raises AdapterError for a name that is not known, or no finite strength."""
    if not isinstance(choice, str | Mapping | None):
        raise AdapterError(f"expected an adapter's name, names with strengths, or None, got {choice!r}")
    named = {choice: 1.0} if isinstance(choice, str) else dict(choice or {})
    for name, strength in named.items():
        if name not in known:
            raise AdapterError(f"there is no adapter {name!r}; the model has {', '.join(known) or 'none'}")
        if not isinstance(strength, Real) or not abs(strength) <= sys.float_info.max:
            raise AdapterError(f"the strength of {name!r} should be a finite number, got {strength!r}")
    return {name: float(strength) for name, strength in named.items()}
