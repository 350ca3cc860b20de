"""Adapters chosen for one call: `model(ids, adapters=["bard", None])`.

The choice is passed in a context variable, so intermediate layers need no extra argument, and calls in other threads do
not see it. Adapted Linears read it (`adapters/host.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

import numpy as np

from minilora.backend import Array
from minilora.nn.module import AdapterError, Module

Choice: TypeAlias = str | Mapping[str, float] | None
"""One adapter by name, several with strengths, or None or {} for the base."""


@dataclass(frozen=True)
class RowChoice:
    """The adapters of each row of a batch: row i uses distinct[index[i]], {adapter: strength}; {} is the base."""

    distinct: tuple[dict[str, float], ...]
    index: Array  # (batch,)


_chosen: ContextVar[RowChoice | None] = ContextVar("chosen", default=None)


def chosen() -> RowChoice | None:
    """The choice of the current call; None: the active adapters apply."""
    return _chosen.get()


@contextmanager
def choosing(rows: RowChoice) -> Iterator[None]:
    """Inside this block, and in this context alone, layers use the adapters of `rows`."""
    token = _chosen.set(rows)
    try:
        yield
    finally:
        _chosen.reset(token)


def resolve(model: Module, adapters: RowChoice | Choice | Sequence[Choice], batch: int) -> RowChoice:
    """The choice for each of `batch` rows: a list has one entry for each row; anything else holds for all rows.

    A RowChoice is checked and returned as it is. Raises AdapterError for an unknown name, a strength that is not a
    finite number, a list of another length, or a model whose adapters are merged.
    """
    model.refuse_if_merged("choose adapters for a call")
    known = model.adapters
    if isinstance(adapters, RowChoice):  # it was made before: the model may have changed since
        for choice in adapters.distinct:
            strengths(choice, known)
        return adapters
    if adapters is None or isinstance(adapters, str | Mapping):
        adapters = [adapters] * batch
    if not isinstance(adapters, Sequence):  # a set has no order
        raise AdapterError(f"expected a name, names with strengths, or a list of these, one a row, got {adapters!r}")
    if len(adapters) != batch:
        raise AdapterError(f"expected adapters for {batch} rows, one for each, got {len(adapters)}")
    return row_choice([strengths(choice, known) for choice in adapters])


def row_choice(rows: Sequence[dict[str, float]]) -> RowChoice:
    """The adapters of each row, where they are known to exist."""
    distinct: list[dict[str, float]] = []
    for row in rows:
        if row not in distinct:
            distinct.append(row)
    return RowChoice(tuple(distinct), np.array([distinct.index(row) for row in rows], dtype=np.intp))


def strengths(choice: Choice, known: Sequence[str]) -> dict[str, float]:
    """A choice as strengths by name. Raises AdapterError for an unknown name or a strength that is not finite."""
    if not isinstance(choice, str | Mapping | None):
        raise AdapterError(f"expected an adapter's name, names with strengths, or None, got {choice!r}")
    named = {choice: 1.0} if isinstance(choice, str) else dict(choice or {})
    for name, strength in named.items():
        if name not in known:
            raise AdapterError(f"there is no adapter {name!r}; the model has {', '.join(known) or 'none'}")
        if not isinstance(strength, Real) or not abs(strength) <= sys.float_info.max:
            raise AdapterError(f"the strength of {name!r} should be a finite number, got {strength!r}")
    return {name: float(strength) for name, strength in named.items()}
