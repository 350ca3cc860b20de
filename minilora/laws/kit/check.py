"""`check(MyLoraLinear)`: check your own LoRA layer against the laws."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from minilora.laws.kit.guard import Maker
from minilora.laws.kit.law import CONFORMANCE, LAWS, catalogue
from minilora.laws.kit.verdict import Verdict, run
from minilora.messages import shown

UPDATE = "the-update-is-BA-scaled-by-alpha-over-r"


def check(layer: type[Any], *groups: str, cases: int = 100, dtype: str = "float64", seed: int = 0) -> bool:
    """Print which laws of LoRA hold for a layer, and the smallest counterexample for each law that does not.

    Besides `holds` and `BROKEN`, a verdict can be `inexact` (a law that should hold bit for bit holds only up to
    rounding) or `differs` (the layer follows another common convention, such as a scale of α instead of α/r).

    Parameters
    ----------
    layer : a class with the interface described in `layer.py`; `__init__` and `forward` are enough
    groups : any of "lora", "merge", "many"; all three by default
    cases : the number of cases for each law
    dtype, seed : the dtype of the arrays, and the seed for drawing the cases

    Returns True if at least one law applies to the layer and none is BROKEN. Raises TypeError if `layer` is not a class
    with both methods, and ValueError for an invalid group, dtype or number of cases.

        class MyLoraLinear:
            def __init__(self, W, A, B, alpha, r):
                self.W, self.A, self.B, self.scale = W, A, B, alpha / r

            def forward(self, x):
                return x @ self.W.T + self.scale * (x @ self.A.T) @ self.B.T

        check(MyLoraLinear)
    """
    for name in groups:
        if name not in CONFORMANCE:
            raise ValueError(f"expected one of the groups {', '.join(CONFORMANCE)}; got {name!r}")
    for needed in ("__init__", "forward"):
        if not isinstance(layer, type) or not hasattr(layer, needed):
            raise TypeError(f"expected a class with __init__(W, A, B, alpha, r) and forward(x), got {shown(layer)}")
    if problem := first_problem(layer, dtype):
        print(problem)
        return False
    checked = conventional(layer, cases, dtype, seed)
    if checked is not layer:
        print(ALPHA_IS_THE_SCALE)
    verdicts: list[Verdict] = []
    for law in catalogue(*(groups or CONFORMANCE)):
        verdict = run(law, checked, cases, dtype, seed)
        if verdict.holds is not None:
            print(line(verdict))
        if verdict.holds is False:
            print(explanation(verdict, verdicts))
        verdicts.append(verdict)
    print(summary(verdicts, checked))
    words = {verdict.word for verdict in verdicts}
    return bool(words - {"-"}) and "BROKEN" not in words


def first_problem(layer: type[Any], dtype: str) -> str:
    """Return a message if the layer raises an exception or returns the wrong shape for a simple first case, else ""."""
    rng = np.random.default_rng(0)
    W, A, B, x = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 5), (2, 5), (3, 2), (4, 5)))
    case = "W (3, 5), A (2, 5), B (3, 2), alpha = 4, r = 2, x (4, 5)"
    try:
        shape = np.shape(Maker(layer)(W, A, B, 4.0, 2).forward(x))
    except Exception as error:  # of any kind: the layer is not ours
        problem = f"raised {type(error).__name__}: {error}"
    else:
        problem = "" if shape == (4, 3) else f"forward(x) should return shape (4, 3), got {shape}"
    return problem and f"  BROKEN  the first case, {case}:\n          {problem}\nNo law was checked; fix this first."


ALPHA_IS_THE_SCALE = """\
  differs  the scale: this layer multiplies B A by α; LoRA and PEFT multiply by α/r. Both conventions are in
           use, but the same α gives different updates. The laws below are checked by passing α/r to this layer as α."""


def conventional(layer: type[Any], cases: int, dtype: str, seed: int) -> type[Any]:
    """Return the layer or, if its scale is α instead of α/r, a version of it that is called with α/r as α."""
    scaled = _called_with_alpha_over_r(layer)
    verdicts = [run(LAWS[UPDATE], each, cases, dtype, seed).holds for each in (layer, scaled)]
    return scaled if verdicts == [False, True] else layer


def _called_with_alpha_over_r(layer: type[Any]) -> type[Any]:
    def init(self: Any, W: Any, A: Any, B: Any, alpha: float, r: int) -> None:
        layer.__init__(self, W, A, B, alpha / r, r)

    members: dict[str, Any] = {"__init__": init}
    if hasattr(layer, "fresh"):
        members["fresh"] = staticmethod(lambda W, r, alpha, rng: layer.fresh(W, r, alpha / r, rng))
    if hasattr(layer, "many"):
        members["many"] = staticmethod(
            lambda W, adapters: layer.many(
                W, {name: (A, B, alpha / r, r) for name, (A, B, alpha, r) in adapters.items()}
            )
        )
    return type(layer.__name__, (layer,), members)


def line(verdict: Verdict) -> str:
    """Format a verdict on one line."""
    return f"  {verdict.word:7}  {verdict.law.name}: {verdict.law.equation}"


def explanation(verdict: Verdict, earlier: list[Verdict] | None = None) -> str:
    """Format the statement of a broken law and the smallest counterexample.

    An exception that an earlier verdict has already shown is only mentioned.
    """
    lines = [verdict.law.statement]
    if verdict.word == "inexact":
        lines.append(
            f"The law holds up to rounding: the largest error in {verdict.dtype} is {verdict.worst_error:.1e}."
        )
    elif verdict.word == "differs":
        lines.append(inspect.cleandoc(verdict.law.convention.__doc__ or ""))
    elif verdict.exception and any(verdict.exception == other.exception for other in earlier or []):
        lines.append(f"The layer {verdict.counterexample.rpartition(chr(10))[2]}, as above.")
    else:
        lines.append(f"The smallest counterexample found, in {verdict.dtype}:")
        lines += [f"    {text}" for text in verdict.counterexample.splitlines()]
    return "\n".join(f"           {text}" for text in lines)


def summary(verdicts: list[Verdict], layer: type[Any]) -> str:
    """Count the laws by verdict, and list the members that the untried laws need."""
    count = {word: sum(v.word == word for v in verdicts) for word in ("holds", "inexact", "differs", "BROKEN", "-")}
    text = f"{count['holds']} laws hold, {count['BROKEN']} {'is' if count['BROKEN'] == 1 else 'are'} broken"
    if count["inexact"]:
        text += f", {count['inexact']} hold{'s' * (count['inexact'] == 1)} up to rounding"
    if count["differs"]:
        text += f", {count['differs']} differ{'s' * (count['differs'] == 1)} by convention"
    if count["-"]:
        absent = sorted({need for v in verdicts if v.holds is None for need in v.law.missing_in(layer)})
        what = f"the layer has no {', '.join(absent)}" if absent else "they need methods that are not implemented"
        text += f"; {count['-']} not tried: {what}"
    return text
