"""Run laws on many cases: the worst error and, for a broken law, the smallest counterexample."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from minilora.laws.kit.case import Broken, Case
from minilora.laws.kit.guard import Maker
from minilora.laws.kit.law import ROUNDING, Law
from minilora.messages import html_table

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject


@dataclass(frozen=True)
class Verdict:
    """The result of checking one law in one dtype.

    Attributes
    ----------
    holds : whether the law holds; None if the layer lacks a member that the law needs, or does not implement it
    cases : the number of cases tried, including the one that broke the law
    worst_error : the largest error, absolute for laws that hold bit for bit and otherwise relative; infinite for a
        wrong shape, an exception, or NaN
    counterexample : the smallest case found that breaks the law, with the error message
    qualified : "inexact" if a law that should hold bit for bit holds up to rounding; "differs" if the law is a
        convention and the layer follows another common one; otherwise ""
    """

    law: Law
    dtype: str
    holds: bool | None
    cases: int = 0
    worst_error: float = 0.0
    counterexample: str = ""
    qualified: str = ""

    @property
    def bound(self) -> float:
        return self.law.bound[self.dtype]

    @property
    def word(self) -> str:
        """The result in one word: holds, inexact, differs, BROKEN, or - if the law does not apply to the layer."""
        return {True: "holds", False: self.qualified or "BROKEN", None: "-"}[self.holds]

    @property
    def exception(self) -> str:
        """The exception that broke the law, without the digits in its message; "" if there was none."""
        last = self.counterexample.rpartition("\n")[2]
        return re.sub(r"\d+", "", last) if last.startswith("raised ") else ""

    def __repr__(self) -> str:
        error = f"worst error {self.worst_error:.1e}, bound {self.bound:g}"
        return f"Verdict({self.law.name} {self.word}, {self.dtype}, {self.cases} cases, {error})"

    def _repr_html_(self) -> str:
        values = self.law.name, self.law.equation, self.word, self.dtype, self.cases, f"{self.worst_error:.1e}"
        table = html_table(("law", "equation", "verdict", "dtype", "cases", "worst error"), [values])
        return table + (f"<pre>{escape(self.counterexample)}</pre>" if self.counterexample else "")


def run(law: Law, layer: type[Any] | None = None, cases: int = 200, dtype: str = "float64", seed: int = 0) -> Verdict:
    """Check a law on `cases` random cases. The same seed draws the same cases.

    Parameters
    ----------
    layer : the layer class to check, see `layer.py`; minilora's own by default

    Raises ValueError if `cases` is less than 1 or the law has no bound for `dtype`.
    """
    verdict = _strict(law, layer, cases, dtype, seed)
    if verdict.holds is False and math.isfinite(verdict.worst_error):
        for word, milder in _milder(law).items():
            qualified = _strict(milder, layer, cases, dtype, seed)
            if qualified.holds:
                return dataclasses.replace(verdict, qualified=word, worst_error=qualified.worst_error)
    return verdict


def _milder(law: Law) -> dict[str, Law]:
    """Return weaker versions of a law, keyed by the verdict for a layer that satisfies only the weaker version."""
    found = {}
    if not any(law.bound.values()):
        found["inexact"] = dataclasses.replace(law, bound=ROUNDING)
    if law.convention:
        found["differs"] = dataclasses.replace(law, holds=law.convention)
    return found


def _strict(law: Law, layer: type[Any] | None, cases: int, dtype: str, seed: int) -> Verdict:
    """Return the verdict on a law exactly as stated, with its own bound."""
    from hypothesis import errors

    if cases < 1 or dtype not in law.bound:
        raise ValueError(f"expected at least one case, and dtype {' or '.join(law.bound)}; got {cases} and {dtype!r}")
    layer = layer or own_layer()
    if law.takes_layer and law.missing_in(layer):
        return Verdict(law, dtype, None)
    held: list[Case] = []
    broken: list[Broken] = []
    try:
        _try_cases(law, layer, cases, dtype, seed, held, broken)
    except NotImplementedError:
        return Verdict(law, dtype, None)
    except (Broken, errors.Flaky) as end:  # Hypothesis runs the smallest failing case last
        found = broken[-1]
        worst = max(found.error, *(case.worst for case in held), 0.0)
        unsteady = "the same case gave a different result when it was repeated; the failure was:\n"
        text = str(found) if isinstance(end, Broken) else f"{unsteady}{found}"
        return Verdict(law, dtype, False, len(held) + 1, worst, text)
    return Verdict(law, dtype, True, len(held), max(case.worst for case in held))


def _try_cases(
    law: Law, layer: type[Any], cases: int, dtype: str, seed: int, held: list[Case], broken: list[Broken]
) -> None:
    """Run cases drawn by Hypothesis, and append passing cases to `held` and failures to `broken`.

    Raises Broken for the smallest failing case.
    """
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
        warnings.simplefilter("ignore")  # warnings of an implementation do not affect the verdict
        hypothesis.seed(seed)(settings(hypothesis.given(strategies.data())(holds)))()


def _failure(law: Law, layer: type[Any], case: Case) -> tuple[str, float] | None:
    """The failure message, which includes the case, and the relative error; None if the law holds."""
    from hypothesis.errors import HypothesisException

    try:
        law.holds(case, Maker(layer)) if law.takes_layer else law.holds(case)
    except Broken as broken:
        return f"{case}\n{broken}", broken.error
    except (NotImplementedError, HypothesisException):
        raise
    except Exception as error:  # any other exception of an implementation breaks the law
        return f"{case}\nraised {type(error).__name__}: {error}", math.inf
    return None


def own_layer() -> type[Any]:
    """minilora's own LoRA layer, with the interface that the laws expect."""
    from minilora.laws.kit.implementations.own import MiniloraLayer

    return MiniloraLayer
