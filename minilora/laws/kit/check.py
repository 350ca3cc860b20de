"""`check(MyLoraLinear)`: check your own LoRA layer against the laws."""

from __future__ import annotations

from typing import Any

from minilora.laws.kit.law import CONFORMANCE, catalogue
from minilora.laws.kit.verdict import Verdict, run


def check(layer: type[Any], *groups: str, cases: int = 100, dtype: str = "float64", seed: int = 0) -> bool:
    """Print which laws of LoRA hold for a layer, and the smallest counterexample for each law that does not.

    Parameters
    ----------
    layer : a class with the interface described in `layer.py`; `__init__` and `forward` are enough
    groups : any of "lora", "merge", "many"; all three by default
    cases : the number of cases for each law
    dtype, seed : the dtype of the arrays, and the seed for drawing the cases

    Returns True if at least one law applies to the layer and all applicable laws hold. Raises TypeError if `layer` is
    not a class with both methods, and ValueError for an invalid group, dtype or number of cases.

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
            raise TypeError(f"check() expects a class with __init__(W, A, B, alpha, r) and forward(x), got {layer!r}")
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
    """Format a verdict on one line."""
    return f"  {verdict.word:6}  {verdict.law.name}: {verdict.law.equation}"


def explanation(verdict: Verdict) -> str:
    """Format the statement of a broken law and the smallest counterexample."""
    lines = [verdict.law.statement, f"The smallest counterexample found, in {verdict.dtype}:"]
    lines += [f"    {text}" for text in verdict.counterexample.splitlines()]
    return "\n".join(f"          {text}" for text in lines)


def summary(verdicts: list[Verdict], layer: type[Any]) -> str:
    """Count the laws that hold, are broken or were not tried, and list the members that the untried laws need."""
    held, broken, passed_over = (sum(v.holds is word for v in verdicts) for word in (True, False, None))
    text = f"{held} laws hold, {broken} {'is' if broken == 1 else 'are'} broken"
    if passed_over:
        absent = sorted({need for v in verdicts if v.holds is None for need in v.law.missing_in(layer)})
        what = f"the layer has no {', '.join(absent)}" if absent else "they need methods that are not implemented"
        text += f"; {passed_over} not tried: {what}"
    return text
