"""`check(MyLoraLinear)`: hold a LoRA layer of your own to the laws, and read what it says."""

from __future__ import annotations

from typing import Any

from minilora.laws.kit.law import CONFORMANCE, catalogue
from minilora.laws.kit.verdict import Verdict, run


def check(layer: type[Any], *groups: str, cases: int = 100, dtype: str = "float64", seed: int = 0) -> bool:
    """Print which laws of LoRA a layer obeys, and the smallest counterexample for each that it does not.

    Parameters
    ----------
    layer : a class of the form that `layer.py` describes; two methods are enough to begin with
    groups : "lora", "merge", "many"; all three if none is given
    cases : how many to try for each law

    Returns whether some laws say something about this layer, and all of these hold.

        class MyLoraLinear:
            def __init__(self, W, A, B, alpha, r):
                self.W, self.A, self.B, self.scale = W, A, B, alpha / r

            def forward(self, x):
                return x @ self.W.T + self.scale * (x @ self.A.T) @ self.B.T

        check(MyLoraLinear)
    """
    for name in groups:
        if name not in CONFORMANCE:
            raise ValueError(f"a layer can be held to the laws of {', '.join(CONFORMANCE)}; got {name!r}")
    for needed in ("__init__", "forward"):
        if not isinstance(layer, type) or not hasattr(layer, needed):
            raise TypeError(f"check expects a class with __init__(W, A, B, alpha, r) and forward(x), got {layer!r}")
    verdicts = []
    for law in catalogue(*(groups or CONFORMANCE)):
        verdicts.append(run(law, layer, cases, dtype, seed))
        if verdicts[-1].holds is not None:
            print(line(verdicts[-1]))
        if verdicts[-1].holds is False:
            print(explanation(verdicts[-1]))
    print(summary(verdicts, layer))
    words = [verdict.holds for verdict in verdicts]
    return True in words and False not in words


def line(verdict: Verdict) -> str:
    """The verdict in one line."""
    word = {True: "holds", False: "BROKEN", None: "-"}[verdict.holds]
    return f"  {word:6}  {verdict.law.name}: {verdict.law.equation}"


def explanation(verdict: Verdict) -> str:
    """What the broken law says, and the smallest case for which it is not so."""
    lines = [verdict.law.statement, f"The smallest counterexample found, in {verdict.dtype}:"]
    lines += [f"    {text}" for text in verdict.counterexample.splitlines()]
    return "\n".join(f"          {text}" for text in lines)


def summary(verdicts: list[Verdict], layer: type[Any]) -> str:
    """How many hold, how many are broken, and what the layer would have to offer for the rest."""
    held, broken, passed_over = (sum(v.holds is word for v in verdicts) for word in (True, False, None))
    text = f"{held} laws hold, {broken} {'is' if broken == 1 else 'are'} broken"
    if passed_over:
        absent = sorted({need for v in verdicts if v.holds is None for need in v.law.missing_in(layer)})
        what = f"a layer without {', '.join(absent)}" if absent else "methods that are not implemented"
        text += f"; {passed_over} say nothing about {what}"
    return text
