"""Running laws: many cases of each, the worst error seen, and where a law is broken the smallest counterexample."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minilora.laws.kit.case import Broken, Case
from minilora.laws.kit.guard import Maker
from minilora.laws.kit.law import Law

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject


@dataclass(frozen=True)
class Verdict:
    """What became of one law in one dtype.

    Attributes
    ----------
    holds : None where the implementation does not offer what the law is about
    cases : how many were tried, the one that broke the law included
    worst_error : the largest relative error; infinite for a wrong shape, an exception, or not a number
    counterexample : the smallest case found that breaks the law, and what went wrong there
    """

    law: Law
    dtype: str
    holds: bool | None
    cases: int = 0
    worst_error: float = 0.0
    counterexample: str = ""

    @property
    def bound(self) -> float:
        return self.law.bound[self.dtype]


def run(law: Law, layer: type[Any] | None = None, cases: int = 200, dtype: str = "float64", seed: int = 0) -> Verdict:
    """Try a law on `cases` cases. The same seed draws the same cases.

    Parameters
    ----------
    layer : the class of the layer that is held to the law, see `layer.py`; minilora's own if not given

    Raises ValueError for a dtype that the law has no bound for, or no cases.
    """
    from hypothesis import errors

    if cases < 1 or dtype not in law.bound:
        raise ValueError(f"expected at least one case, in {' or '.join(law.bound)}; got {cases}, in {dtype!r}")
    layer = layer or own_layer()
    if law.takes_layer and law.missing_in(layer):
        return Verdict(law, dtype, None)
    held: list[Case] = []
    broken: list[Broken] = []
    try:
        _try_cases(law, layer, cases, dtype, seed, held, broken)
    except NotImplementedError:
        return Verdict(law, dtype, None)
    except (Broken, errors.Flaky) as end:  # Hypothesis raises for the smallest case last
        found = broken[-1]
        worst = max(found.error, *(case.worst for case in held), 0.0)
        unsteady = "tried again, the same case gave another answer; what went wrong at first:\n"
        text = str(found) if isinstance(end, Broken) else f"{unsteady}{found}"
        return Verdict(law, dtype, False, len(held) + 1, worst, text)
    return Verdict(law, dtype, True, len(held), max(case.worst for case in held))


def _try_cases(
    law: Law, layer: type[Any], cases: int, dtype: str, seed: int, held: list[Case], broken: list[Broken]
) -> None:
    """Let Hypothesis draw the cases, noting those that held and what broke. Raises Broken for the smallest that did."""
    import hypothesis
    from hypothesis import strategies

    def holds(data: DataObject) -> None:
        case = Case(data, dtype, law.bound[dtype])
        if failure := _failure(law, layer, case):
            broken.append(Broken(*failure))
            raise Broken(*failure)
        held.append(case)

    settings = hypothesis.settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
        report_multiple_bugs=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what an implementation warns of is no verdict
        hypothesis.seed(seed)(settings(hypothesis.given(strategies.data())(holds)))()


def _failure(law: Law, layer: type[Any], case: Case) -> tuple[str, float] | None:
    """The case and what is wrong with it, and its error; None when the law holds."""
    from hypothesis.errors import HypothesisException

    try:
        law.holds(case, Maker(layer)) if law.takes_layer else law.holds(case)
    except Broken as broken:
        return f"{case}\n{broken}", broken.error
    except (NotImplementedError, HypothesisException):
        raise
    except Exception as error:  # whatever else an implementation does is a finding
        return f"{case}\nraised {type(error).__name__}: {error}", math.inf
    return None


def own_layer() -> type[Any]:
    """minilora's own LoRA layer, in the form that the laws expect."""
    from minilora.laws.kit.implementations.own import MiniloraLayer

    return MiniloraLayer
