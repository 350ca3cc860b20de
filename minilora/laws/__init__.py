"""The mathematics of LoRA as statements that a computer checks, on minilora and on any other implementation.

from minilora.laws import check
check(MyLoraLinear)  # what holds; and the smallest counterexample of what does not

Reading order: `kit/law.py` (what a law is); `lora.py`, `learning.py`, `merge.py`, `many.py` (the laws of LoRA);
`methods.py` (of every method); then `kit/layer.py` (what a class needs to be held to them). `minilora laws --list`
prints the catalogue.
"""

from minilora.laws import (  # noqa: F401 (each enters its laws)
    autograd,
    dora,
    learning,
    lora,
    many,
    merge,
    methods,
    model,
    runs,
    writing,
)
from minilora.laws.kit.check import check
from minilora.laws.kit.law import CONFORMANCE, GROUPS, LAWS, Law, catalogue
from minilora.laws.kit.verdict import Verdict, run

__all__ = ["CONFORMANCE", "GROUPS", "LAWS", "Law", "Verdict", "catalogue", "check", "run"]
