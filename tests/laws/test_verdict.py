"""Running a law: the number of cases, the same cases for the same seed, and the smallest counterexample."""

import dataclasses
import math

import numpy as np
import pytest

from minilora.laws import LAWS, run
from minilora.laws.kit.implementations.own import MiniloraLayer
from minilora.laws.kit.implementations.twenty_lines import TwentyLines
from minilora.laws.kit.law import Law, rounding


def made(holds, group="autograd", bound=None):
    """A law that is not in the catalogue."""
    return Law("a-law", group, "It is so.", "x = x", "nowhere", bound or rounding(1e-12, 1e-5), (), holds)


def test_as_many_cases_as_asked_for():
    seen = []
    verdict = run(made(lambda case: seen.append(case.array("x", case.size("n", 1, 5)))), cases=7)
    assert verdict.holds is True
    assert verdict.cases == 7 == len(seen)
    assert len({len(x) for x in seen}) >= 3
    assert run(made(lambda case: None)).cases == 200


def draws(seed, cases=10):
    seen = []
    run(made(lambda case: seen.append(case.array("x", 2).tolist())), cases=cases, seed=seed)
    return seen


def test_the_seed_decides_the_cases_and_few_are_drawn_twice():
    assert draws(0) == draws(0)
    assert draws(0) != draws(1)
    assert len({tuple(x) for x in draws(0, cases=200) if x[0] % 1}) > 70


def test_the_dtype_and_its_bound_reach_the_case():
    for dtype, bound in (("float64", 1e-12), ("float32", 1e-5)):
        seen = []
        verdict = run(made(lambda case, seen=seen: seen.append((case.dtype, case.bound))), cases=2, dtype=dtype)
        assert seen[0] == (np.dtype(dtype), bound)
        assert (verdict.dtype, verdict.bound) == (dtype, bound)


def test_the_worst_error_of_all_cases():
    errors = iter([0.1, 0.4, 0.2])
    law = made(lambda case: case.equal("h", [1 + next(errors)], [1.0]), bound=rounding(0.5, 0.5))
    assert run(law, cases=3).worst_error == pytest.approx(0.4)


def test_the_smallest_counterexample():
    def holds(case):
        n = case.size("n", 1, 50)
        x = case.array("x", n)
        case.equal("number of entries", min(len(x), 12), n)

    verdict = run(made(holds), cases=200)
    assert verdict.holds is False
    assert verdict.counterexample.startswith("n = 13\nx = [")
    assert "number of entries should be 13, got 12\nerror" in verdict.counterexample
    x = verdict.counterexample.splitlines()[1]
    assert "." not in x.replace(".,", "").replace(".]", "")  # integers, if they break the law as well
    assert verdict.worst_error == pytest.approx(1 / 13)  # that of the smallest counterexample, or of a case that held


def raising(error):
    def method(*given):
        raise error

    return method


LINEAR, TWICE = "the-layer-is-linear", "merging-twice-is-merging-once"


@pytest.mark.parametrize(
    ("law", "name", "member", "said"),
    [
        (LINEAR, "forward", raising(KeyError("tokens")), "KeyError: 'tokens'"),
        (LINEAR, "__init__", raising(RuntimeError("not today")), "RuntimeError: not today"),
        (
            LINEAR,
            "forward",
            raising(NotImplementedError()),
            "TypeError: forward() is not implemented; every layer needs this method",
        ),
        (LINEAR, "__init__", raising(NotImplementedError()), "TypeError: __init__() is not implemented; every layer"),
        (TWICE, "weight", property(raising(RuntimeError("not yet")), lambda *_: None), "RuntimeError: not yet"),
    ],
)
def test_an_exception_of_the_implementation_is_a_finding(law, name, member, said):
    verdict = run(LAWS[law], type("Fails", (TwentyLines,), {name: member}))
    assert verdict.holds is False
    assert f"raised {said}" in verdict.counterexample
    assert verdict.worst_error == math.inf


def test_what_a_layer_does_not_offer_is_not_tried():
    class Minimal:
        def __init__(self, W, A, B, alpha, r):
            self.W, self.A, self.B, self.scale = W, A, B, alpha / r

        def forward(self, x):
            return x @ (self.W + self.scale * self.B @ self.A).T

    assert run(LAWS["the-gauge-changes-nothing"], Minimal).holds is True
    verdict = run(LAWS["merging-changes-no-output"], Minimal)
    assert (verdict.holds, verdict.cases, verdict.worst_error) == (None, 0, 0)
    assert LAWS["merging-twice-is-merging-once"].missing_in(Minimal) == ["merge", "weight"]
    assert LAWS["merging-leaves-A-and-B-alone"].missing_in(TwentyLines) == []  # instance attributes count
    fails = type("Fails", (TwentyLines,), {"__init__": raising(RuntimeError("not today"))})
    assert LAWS["merging-twice-is-merging-once"].missing_in(fails) == ["weight"]
    later = type("Later", (MiniloraLayer,), {"merge": raising(NotImplementedError())})
    assert run(LAWS["merging-changes-no-output"], later).holds is None


def test_laws_of_minilora_alone_take_no_layer():
    seen = []
    law = dataclasses.replace(made(seen.append), group="model")
    run(law, TwentyLines, cases=1)
    assert type(seen[0]).__name__ == "Case"


def test_laws_and_verdicts_stay_as_they_are_and_nothing_is_printed(capfd):
    verdict = run(made(lambda case: case.true("no", False)))
    for thing in (verdict, verdict.law):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.bound = {}
    assert capfd.readouterr() == ("", "")
    assert (verdict.holds, verdict.cases) == (False, 1)  # the case that breaks the law counts


def test_what_an_implementation_warns_of_is_no_verdict(recwarn):
    def holds(case):
        np.log(np.zeros(1))
        case.true("so it is", True)

    assert run(made(holds), cases=3).holds is True
    assert not recwarn.list


def test_a_layer_that_leaves_things_to_chance():
    """Hypothesis repeats a failing case, which now holds; this is reported as a broken law."""

    class DropsOutside(TwentyLines):
        rng = np.random.default_rng(0)

        def forward(self, x):
            return super().forward(x) + (self.rng.random() < 0.3)

    verdict = run(LAWS["the-layer-is-linear"], DropsOutside)
    assert verdict.holds is False
    assert verdict.counterexample.startswith(
        "the same case gave a different result when it was repeated; the failure was:"
    )
    assert "h(a x + y) should be" in verdict.counterexample


@pytest.mark.parametrize("arguments", [{"cases": 0}, {"dtype": "float16"}])
def test_what_cannot_be_tried(arguments):
    with pytest.raises(ValueError, match="expected at least one case, and dtype float64 or float32; got "):
        run(LAWS["zero-B-is-the-identity"], **arguments)
