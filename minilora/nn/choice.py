"""Adapter selection for a single call: `model(ids, adapters=["bard", None])`.

The selection is passed in a context variable, so intermediate layers need no extra argument and calls in other threads
are not affected. Adapted Linear layers read the variable (`adapters/host.py`).
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
from minilora.messages import shown
from minilora.nn.module import AdapterError, Module, check_module

Choice: TypeAlias = str | Mapping[str, float] | None
"""A selection: one adapter by name, a dict of strengths by name, or None or {} for the base."""


@dataclass(frozen=True)
class RowChoice:
    """The adapters of each row of a batch: row i uses distinct[index[i]], {adapter: strength}; {} is the base."""

    distinct: tuple[dict[str, float], ...]
    index: Array  # (batch,)


_chosen: ContextVar[RowChoice | None] = ContextVar("chosen", default=None)


def chosen() -> RowChoice | None:
    """Return the selection of the current call, or None if the active adapters apply."""
    return _chosen.get()


@contextmanager
def choosing(rows: RowChoice) -> Iterator[None]:
    """Context manager that makes layers use the adapters of `rows`. Other threads are not affected."""
    token = _chosen.set(rows)
    try:
        yield
    finally:
        _chosen.reset(token)


def resolve(model: Module, adapters: RowChoice | Choice | Sequence[Choice], batch: int) -> RowChoice:
    """Return the selection for each of `batch` rows. A list has one entry per row; anything else applies to all rows.

    A RowChoice is checked and returned unchanged. Raises AdapterError if a name is unknown, a strength is not a finite
    number, a list does not have `batch` entries, or the adapters of the model are merged.
    """
    check_module(model)
    model.refuse_if_merged("select adapters for a call")
    known = model.adapters
    if isinstance(adapters, RowChoice):  # resolved earlier: the model may have changed since
        for choice in adapters.distinct:
            strengths(choice, known)
        return adapters
    if adapters is None or isinstance(adapters, str | Mapping):
        adapters = [adapters] * batch
    if not isinstance(adapters, Sequence):  # a set has no order
        raise AdapterError(
            f"expected an adapter name, a dict of strengths, or a list with one of these per row, got {shown(adapters)}"
        )
    if len(adapters) != batch:
        raise AdapterError(f"expected one entry of `adapters` for each of {batch} rows, got {len(adapters)}")
    return row_choice([strengths(choice, known) for choice in adapters])


def row_choice(rows: Sequence[dict[str, float]]) -> RowChoice:
    """Return the RowChoice for dicts of strengths that have been checked already."""
    distinct: list[dict[str, float]] = []
    for row in rows:
        if row not in distinct:
            distinct.append(row)
    return RowChoice(tuple(distinct), np.array([distinct.index(row) for row in rows], dtype=np.intp))


def strengths(choice: Choice, known: Sequence[str]) -> dict[str, float]:
    """Return a selection as strengths by name. Raises AdapterError for unknown names and non-finite strengths."""
    if not isinstance(choice, str | Mapping | None):
        raise AdapterError(f"expected an adapter name, a dict of strengths, or None, got {shown(choice)}")
    named = {choice: 1.0} if isinstance(choice, str) else dict(choice or {})
    for name, strength in named.items():
        if name not in known:
            raise AdapterError(
                f"there is no adapter {name!r}; the model has {', '.join(known) or 'none'}; load_adapter adds one"
            )
        if not isinstance(strength, Real) or not abs(strength) <= sys.float_info.max:
            raise AdapterError(f"the strength of {name!r} should be a finite number, got {shown(strength)}")
    return {name: float(strength) for name, strength in named.items()}
