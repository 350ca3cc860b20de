"""The `Law` class and the catalogue: a law is a statement with an equation, a source and an executable property.

The property is a function that draws a case (`case.py`), computes two results that should agree, and compares them.
Laws about LoRA layers also receive the layer class, so that they can check any implementation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

GROUPS = {
    "autograd": "derivatives: the autograd engine and the ops",
    "model": "the Llama model: attention, norms and losses",
    "lora": "one adapter on one layer",
    "merge": "merging an adapter into the weight, and unmerging it",
    "many": "several adapters: switching, mixing, and a different adapter for each row",
    "methods": "any adaptation method on a Linear layer",
    "runs": "files, tokenizer, training runs and generation",
}
CONFORMANCE = "lora", "merge", "many"
"""The groups of laws that check a layer class, which can be from any implementation."""

EXACT = {"float64": 0.0, "float32": 0.0}
"""The bound of a law that must hold bit for bit."""


ROUNDING = {"float64": 1e-12, "float32": 1e-5}
"""The default bound of a law that holds up to rounding: the errors of the few sums in a small layer."""


def rounding(float64: float, float32: float) -> dict[str, float]:
    """The bound of a law that holds up to rounding, relative to the largest entry or 1, whichever is larger."""
    return {"float64": float64, "float32": float32}


@dataclass(frozen=True)
class Law:
    """A statement that a program can check.

    Attributes
    ----------
    name : a short name that identifies the mistake when the law is broken
    group : one of GROUPS
    statement, equation, source : the law in one sentence, in symbols, and its reference
    bound : dtype -> the largest relative error that counts as rounding
    needs : the methods and attributes that a layer must have for the law to apply; see `layer.py`
    holds : the property, a function of a Case and, for the groups in CONFORMANCE, of a layer class
    convention : for a law that states a convention, the property of layers that follow another common convention; its
        docstring describes that convention
    """

    name: str
    group: str
    statement: str
    equation: str
    source: str
    bound: Mapping[str, float]
    needs: tuple[str, ...]
    holds: Callable[..., None]
    convention: Callable[..., None] | None = None

    def __repr__(self) -> str:
        return f"Law({self.name}: {self.equation})"

    @property
    def takes_layer(self) -> bool:
        return self.group in CONFORMANCE

    def missing_in(self, layer: type[Any]) -> list[str]:
        """The names in `needs` that `layer` does not have."""
        specimen = _specimen(layer)
        return [name for name in self.needs if not _offers(specimen, name)]


def _specimen(layer: type[Any]) -> Any:
    """A small instance with the attributes that its constructor sets, or the class itself if construction fails."""
    one = np.ones((1, 1))
    try:
        return layer(one, one, one, 1.0, 1)
    except Exception:  # the laws report what is wrong with it
        return layer


def _offers(layer: Any, name: str) -> bool:
    """Whether `layer` has the attribute. An attribute that raises counts as present: the laws report the error."""
    try:
        return hasattr(layer, name)
    except Exception:
        return True


LAWS: dict[str, Law] = {}
"""All laws by name. `catalogue()` returns them in reading order."""


def catalogue(*groups: str) -> list[Law]:
    """The laws of the given groups, or of all groups if none is given, in the order of GROUPS.

    Raises ValueError for an unknown group.
    """
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"unknown group of laws {group!r}; valid groups: {', '.join(GROUPS)}")
    chosen = [law for law in LAWS.values() if law.group in (groups or GROUPS)]
    return sorted(chosen, key=lambda law: list(GROUPS).index(law.group))


def law(
    group: str,
    equation: str,
    source: str,
    bound: Mapping[str, float] | None = None,
    needs: tuple[str, ...] = (),
    convention: Callable[..., None] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a property in the catalogue: the function's name becomes the law's name, its docstring the statement.

    The default `bound` is ROUNDING.
    """

    def enter(holds: Callable[..., None]) -> Callable[..., None]:
        name = holds.__name__.replace("_", "-")
        assert name not in LAWS, name
        statement = inspect.cleandoc(holds.__doc__ or "")
        LAWS[name] = Law(name, group, statement, equation, source, bound or ROUNDING, needs, holds, convention)
        return holds

    return enter
