"""The mathematics of LoRA as executable laws, for minilora and for any other implementation.

from minilora.laws import check
check(MyLoraLinear)  # prints which laws hold, and the smallest counterexample for each that does not

Reading order: `kit/law.py` (the `Law` class); `lora.py`, `learning.py`, `merge.py`, `many.py` (laws of LoRA layers);
`methods.py` (laws of every adaptation method); then `kit/layer.py` (the interface of a layer that can be checked).
`minilora laws --list` prints the catalogue.
"""

from minilora.laws import (  # noqa: F401 (importing a module registers its laws)
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
