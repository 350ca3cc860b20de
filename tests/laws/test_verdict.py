"""Running a law: enough cases, the same ones each time, and a small counterexample."""

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


@pytest.mark.parametrize("cases", [1, 7, 200])
def test_as_many_cases_as_asked_for(cases):
    seen = []
    verdict = run(made(lambda case: seen.append(case.array("x", case.size("n", 1, 5)))), cases=cases)
    assert verdict.holds is True
    assert verdict.cases == cases == len(seen)
    assert cases < 7 or len({len(x) for x in seen}) >= 3


def test_two_hundred_cases_unless_asked_for_others():
    assert run(made(lambda case: None)).cases == 200


def draws(seed, cases=10):
    seen = []
    run(made(lambda case: seen.append(case.array("x", 2).tolist())), cases=cases, seed=seed)
    return seen


def test_the_seed_decides_the_cases():
    assert draws(0) == draws(0)
    assert draws(0) != draws(1)


def test_few_cases_are_drawn_twice():
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


def test_the_case_that_breaks_the_law_counts():
    verdict = run(made(lambda case: case.true("no", False)))
    assert (verdict.holds, verdict.cases) == (False, 1)


def test_the_smallest_counterexample():
    def holds(case):
        n = case.size("n", 1, 50)
        x = case.array("x", n)
        case.equal("number of entries", min(len(x), 12), n)

    verdict = run(made(holds), cases=200)
    assert verdict.holds is False
    assert verdict.counterexample.startswith("n = 13\nx = [")
    assert "number of entries should be 13, is 12\nerror" in verdict.counterexample
    x = verdict.counterexample.splitlines()[1]
    assert "." not in x.replace(".,", "").replace(".]", "")  # whole numbers, where these show it as well
    assert verdict.worst_error == pytest.approx(1 / 13)  # of the smallest, or of a case that held


def test_an_exception_of_the_implementation_is_a_finding():
    class Breaks(TwentyLines):
        def forward(self, x):
            if len(x) > 1:
                raise KeyError("tokens")
            return super().forward(x)

    verdict = run(LAWS["the-layer-is-linear"], Breaks)
    assert verdict.holds is False
    assert "tokens = 2" in verdict.counterexample
    assert "raised KeyError: 'tokens'" in verdict.counterexample
    assert verdict.worst_error == math.inf


def test_a_layer_that_cannot_be_made_is_a_finding():
    class Fails(TwentyLines):
        def __init__(self, W, A, B, alpha, r):
            raise RuntimeError("not today")

    verdict = run(LAWS["the-layer-is-linear"], Fails)
    assert verdict.holds is False
    assert "raised RuntimeError: not today" in verdict.counterexample
    assert LAWS["merging-twice-is-merging-once"].missing_in(Fails) == ["weight"]


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
    assert LAWS["merging-leaves-A-and-B-alone"].missing_in(TwentyLines) == []  # attributes of the object count


def test_a_method_that_is_not_implemented_is_not_offered():
    class Later(MiniloraLayer):
        def merge(self):
            raise NotImplementedError

    assert run(LAWS["merging-changes-no-output"], Later).holds is None


def test_laws_of_minilora_alone_take_no_layer():
    seen = []
    law = dataclasses.replace(made(seen.append), group="model")
    run(law, TwentyLines, cases=1)
    assert type(seen[0]).__name__ == "Case"


def test_laws_and_verdicts_stay_as_they_are():
    verdict = run(made(lambda case: None), cases=1)
    for thing in (verdict, verdict.law):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.bound = {}


def test_nothing_is_printed(capfd):
    run(made(lambda case: case.true("no", False)))
    assert capfd.readouterr() == ("", "")


def test_what_an_implementation_warns_of_is_no_verdict(recwarn):
    def holds(case):
        np.log(np.zeros(1))
        case.true("so it is", True)

    assert run(made(holds), cases=3).holds is True
    assert not recwarn.list


def test_a_layer_that_leaves_things_to_chance():
    """Hypothesis tries a case again, and finds that it holds now: also this is an answer."""

    class DropsOutside(TwentyLines):
        rng = np.random.default_rng(0)

        def forward(self, x):
            return super().forward(x) + (self.rng.random() < 0.3)

    verdict = run(LAWS["the-layer-is-linear"], DropsOutside)
    assert verdict.holds is False
    assert verdict.counterexample.startswith(
        "tried again, the same case gave another answer; what went wrong at first:"
    )
    assert "h(a x + y) should be" in verdict.counterexample


@pytest.mark.parametrize("missing", ["__init__", "forward"])
def test_what_every_layer_needs_cannot_be_left_for_later(missing):
    def later(self, *arguments):
        raise NotImplementedError

    layer = type("Later", (TwentyLines,), {missing: later})
    verdict = run(LAWS["zero-B-is-the-identity"], layer)
    assert verdict.holds is False
    assert f"raised TypeError: {missing} is not implemented; every layer needs it" in verdict.counterexample


@pytest.mark.parametrize("arguments", [{"cases": 0}, {"dtype": "float16"}])
def test_what_cannot_be_tried(arguments):
    with pytest.raises(ValueError, match="expected at least one case, in float64 or float32; got "):
        run(LAWS["zero-B-is-the-identity"], **arguments)


def test_an_attribute_that_fails_is_a_finding():
    class Fails(TwentyLines):
        @property
        def weight(self):
            raise RuntimeError("not yet")

        @weight.setter
        def weight(self, value):
            self.hidden = value

        def forward(self, x):
            return x @ self.hidden.T

    verdict = run(LAWS["merging-twice-is-merging-once"], Fails)
    assert verdict.holds is False
    assert "raised RuntimeError: not yet" in verdict.counterexample
