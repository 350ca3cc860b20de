"""What a law is: a statement with an equation and a source, and a property that a computer can try on any case.

A law's property is a plain function that draws a case (`case.py`), computes two things that should agree, and says
so. Laws about LoRA layers are given the class of the layer as well, so that they hold any implementation to account.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

GROUPS = {
    "autograd": "derivatives: what the engine and the ops promise",
    "model": "the Llama: what attention, norms and losses promise",
    "lora": "one adapter on one layer",
    "merge": "the adapter folded into the weight, and taken out again",
    "many": "several adapters: switching, mixing, a different one for each row",
    "methods": "any adaptation method on any Linear",
    "runs": "files, tokenizer, training runs and generation",
}
CONFORMANCE = "lora", "merge", "many"
"""The groups whose laws take the class of a layer, anybody's."""

EXACT = {"float64": 0.0, "float32": 0.0}
"""The bound of a law that holds bit for bit."""


def rounding(float64: float, float32: float) -> dict[str, float]:
    """The bound of a law that holds up to rounding, relative to the largest entry (or 1, if that is less)."""
    return {"float64": float64, "float32": float32}


@dataclass(frozen=True)
class Law:
    """A statement that a computer checks.

    Attributes
    ----------
    name : short, and says what is wrong when the law is broken
    group : one of GROUPS
    statement, equation, source : the law in a sentence, in symbols, and where it comes from
    bound : dtype -> the largest relative error that counts as rounding
    needs : what a layer must offer for the law to say anything about it; see `layer.py`
    holds : the property; it takes a Case, and in the groups CONFORMANCE also the class of a layer
    """

    name: str
    group: str
    statement: str
    equation: str
    source: str
    bound: Mapping[str, float]
    needs: tuple[str, ...]
    holds: Callable[..., None]

    @property
    def takes_layer(self) -> bool:
        return self.group in CONFORMANCE

    def missing_in(self, layer: type[Any]) -> list[str]:
        """What this law is about and `layer` does not offer."""
        specimen = _specimen(layer)
        return [name for name in self.needs if not _offers(specimen, name)]


def _specimen(layer: type[Any]) -> Any:
    """A small layer of the class, which has what its constructor gives it; the class itself where that fails."""
    one = np.ones((1, 1))
    try:
        return layer(one, one, one, 1.0, 1)
    except Exception:  # the laws will say what is wrong with it
        return layer


def _offers(layer: Any, name: str) -> bool:
    """Whether there is such an attribute; one that fails is there, and the laws will say so."""
    try:
        return hasattr(layer, name)
    except Exception:
        return True


LAWS: dict[str, Law] = {}
"""The catalogue, by name. `catalogue()` has it in reading order."""


def catalogue(*groups: str) -> list[Law]:
    """The laws of these groups, or of all, in the order of GROUPS.

    Raises ValueError for a group that there is not.
    """
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"there is no group of laws {group!r}; expected {', '.join(GROUPS)}")
    chosen = [law for law in LAWS.values() if law.group in (groups or GROUPS)]
    return sorted(chosen, key=lambda law: list(GROUPS).index(law.group))


def law(
    group: str, equation: str, source: str, bound: Mapping[str, float] | None = None, needs: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter a property into the catalogue: its name is the law's, its docstring the statement.

    Without a `bound`, rounding of the few sums that a small layer makes.
    """

    def enter(holds: Callable[..., None]) -> Callable[..., None]:
        name = holds.__name__.replace("_", "-")
        assert name not in LAWS, name
        statement = inspect.cleandoc(holds.__doc__ or "")
        LAWS[name] = Law(name, group, statement, equation, source, bound or rounding(1e-12, 1e-5), needs, holds)
        return holds

    return enter
