"""Copying between a law and the layer under test.

A layer may keep the arrays that it receives and modify them in place. A law uses its drawn arrays again after a call,
so without copies it would compare such a layer with itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.laws.kit.layer import Adapter

FORWARDS = "forward", "forward_rows", "forward_in_training"


class Guarded:
    """Wrapper of a layer that copies arguments, attributes and results."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._layer, name)
        return _crossing(value, name) if callable(value) else copied(value)


class Maker:
    """Wrapper of a layer class: calling it, or one of its class methods, returns a Guarded layer."""

    def __init__(self, layer: type[Any]) -> None:
        self.unguarded = layer

    def __call__(self, *arguments: Any) -> Guarded:
        return Guarded(_crossing(self.unguarded, "__init__")(*arguments))

    def __getattr__(self, name: str) -> Callable[..., Guarded]:
        made = _crossing(getattr(self.unguarded, name), name)
        return lambda *arguments: Guarded(made(*arguments))


def copied(value: Any) -> Any:
    """Return `value` with all arrays in it copied."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Adapter):  # passed as a tuple, because layers do not depend on our classes
        return tuple(copied(part) for part in value)
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list | tuple) else value


def _crossing(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap `method` so that its arguments and its result are copied.

    NotImplementedError from `__init__` or `forward` becomes a TypeError, because every layer must implement both.
    """

    def call(*arguments: Any) -> Any:
        try:
            result = method(*copied(arguments))
        except NotImplementedError as error:
            if name in ("__init__", "forward"):
                raise TypeError(f"{name}() is not implemented; every layer needs this method") from error
            raise
        return np.array(result) if name in FORWARDS else copied(result)

    return call
