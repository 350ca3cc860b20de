"""The border between a law and the layer that it judges: arrays cross it as copies.

A layer may keep the arrays that it was given and work on them in place; that is its own affair. But a law goes on using
what it has drawn, and would compare such a layer with itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.laws.kit.layer import Adapter

FORWARDS = "forward", "forward_rows", "forward_in_training"


class Guarded:
    """A layer behind the border. Attributes and results come out as copies."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._layer, name)
        return _crossing(value, name) if callable(value) else copied(value)


class Maker:
    """A class of layers behind the border: call it, or its class methods, for a Guarded layer."""

    def __init__(self, layer: type[Any]) -> None:
        self.unguarded = layer

    def __call__(self, *arguments: Any) -> Guarded:
        return Guarded(_crossing(self.unguarded, "__init__")(*arguments))

    def __getattr__(self, name: str) -> Callable[..., Guarded]:
        made = _crossing(getattr(self.unguarded, name), name)
        return lambda *arguments: Guarded(made(*arguments))


def copied(value: Any) -> Any:
    """The same, with copies of all arrays in it."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Adapter):  # whose layers know nothing of our classes
        return tuple(copied(part) for part in value)
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list | tuple) else value


def _crossing(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`method` with copies going in and coming out. What every layer has to offer cannot be left for later."""

    def call(*arguments: Any) -> Any:
        try:
            result = method(*copied(arguments))
        except NotImplementedError as error:
            if name in ("__init__", "forward"):
                raise TypeError(f"{name} is not implemented; every layer needs it") from error
            raise
        return np.array(result) if name in FORWARDS else copied(result)

    return call
