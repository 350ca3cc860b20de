"""`check(MyLoraLinear)` and its output."""

import numpy as np
import pytest

from minilora.laws import LAWS, check
from minilora.laws.kit.implementations.twenty_lines import TwentyLines
from tests.laws.test_kit import MISTAKES


class MyLoraLinear:
    """The example in the documentation with a mistake: the update is not scaled."""

    def __init__(self, W, A, B, alpha, r):
        self.W, self.A, self.B, self.scale = W, A, B, alpha / r

    def forward(self, x):
        return x @ self.W.T + (x @ self.A.T) @ self.B.T


def test_a_mistake_with_its_counterexample(capsys):
    assert check(MyLoraLinear) is False
    out = capsys.readouterr().out
    assert "BROKEN   the-update-is-BA-scaled-by-alpha-over-r: h = W x + (α/r) B A x\n" in out
    assert "An adapted layer adds (α/r) B A x to the output" in out
    assert "The smallest counterexample found, in float64:" in out
    assert "out = 1, in = 1, r = 1, alpha = 7" in out
    assert (
        "BROKEN   the-rank-divides-the-scale: [A; A], [B, B], 2r, α  ≡  A, B, r, α\n           Repeating A and B" in out
    )
    assert "h should be [[" in out
    assert "  holds    the-gauge-changes-nothing: " in out
    assert "10 laws hold, 3 are broken; 40 not tried: the layer has no " in out
    assert "merging" not in out  # laws that do not apply are not listed


def test_a_layer_without_mistakes(capsys):
    assert check(TwentyLines, cases=20) is True
    out = capsys.readouterr().out
    assert "BROKEN" not in out
    assert "28 laws hold, 0 are broken; 25 not tried: the layer has no forward_in_training, forward_rows, " in out


def test_one_group(capsys):
    scales_twice = MISTAKES["the-merged-weight-is-W-plus-the-update"]
    assert check(scales_twice, "lora", cases=20) is True
    assert "merg" not in capsys.readouterr().out.replace("merge_and_unload", "")
    assert check(scales_twice, "merge", cases=20) is False
    assert "BROKEN   the-merged-weight-is-W-plus-the-update" in capsys.readouterr().out
    assert check(MISTAKES["a-merged-layer-has-no-more-parameters"], "merge", cases=20) is False
    assert " laws hold, 1 is broken" in capsys.readouterr().out


def test_the_example_in_its_documentation_is_right(capsys):
    """The example in the docstring divides α by r."""
    text = check.__doc__
    source = text[text.index("        class MyLoraLinear") : text.index("        check(")]
    namespace = {}
    exec("\n".join(line.removeprefix("        ") for line in source.splitlines()), namespace)
    assert check(namespace["MyLoraLinear"], cases=20) is True


@pytest.mark.parametrize("wrong", [TwentyLines.forward, type("Empty", (), {})])
def test_what_is_no_layer(wrong):
    expected = r"expected a class with __init__\(W, A, B, alpha, r\) and forward\(x\)"
    with pytest.raises(TypeError, match=expected):
        check(wrong)
    with pytest.raises(ValueError, match="expected one of the groups lora, merge, many; got 'model'"):
        check(TwentyLines, "model")


@pytest.mark.parametrize(
    ("method", "group", "said"),
    [
        ("forward", "lora", "raised TypeError: forward() is not implemented"),
        ("merge", "merge", "not tried: the layer has no "),
    ],
)
def test_a_layer_that_does_nothing_obeys_nothing(method, group, said, capsys):
    """A layer passes only if at least one law applies to it."""

    def later(self, *given):
        raise NotImplementedError

    assert check(type("Later", (TwentyLines,), {method: later}), group, cases=5) is False
    assert said in capsys.readouterr().out


class OtherConventions(TwentyLines):
    """Correct, but not as in PEFT: scaled by α, unmerged by subtracting, A of unit variance, dropout after A."""

    def __init__(self, W, A, B, alpha, r):
        super().__init__(W, A, B, alpha * r, r)
        self.merged = False

    def forward(self, x):
        update = 0 if self.merged else self.scale * (x @ self.A.T) @ self.B.T
        return x @ self.weight.T + update

    def merge(self):
        self.weight = self.weight + (not self.merged) * self.scale * self.B @ self.A
        self.merged = True

    def unmerge(self):
        self.weight = self.weight - self.merged * self.scale * self.B @ self.A
        self.merged = False

    @classmethod
    def fresh(cls, W, r, alpha, rng):
        return cls(W, rng.standard_normal((r, W.shape[1])).astype(W.dtype), np.zeros((len(W), r), W.dtype), alpha, r)

    def forward_in_training(self, x, p, rng):
        low = x @ self.A.T
        return x @ self.weight.T + self.scale * (low * (rng.random(low.shape) > p) / (1 - p)) @ self.B.T


def test_other_conventions_have_words_of_their_own(capsys):
    assert check(OtherConventions, cases=20) is True
    out = capsys.readouterr().out
    assert "BROKEN" not in out
    assert out.startswith("  differs  the scale: this layer multiplies B A by α; LoRA and PEFT multiply by α/r.")
    for name in ("a-fresh-A-is-scaled-by-its-inputs", "dropout-acts-on-the-input-of-A-alone"):
        assert f"  differs  {name}: " in out
    for name in ("unmerging-restores-every-bit", "after-unmerging-the-adapter-acts-as-before"):
        assert f"  inexact  {name}: " in out
    assert "The law holds up to rounding: the largest error in float64 is" in out
    assert " laws hold, 0 are broken, 2 hold up to rounding, 2 differ by convention; " in out


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"unmerge": lambda self: setattr(self, "weight", 0.999 * self.original)}, "unmerging-restores-every-bit"),
        ({"unmerge": lambda self: None}, "unmerging-restores-every-bit"),
        (
            {"fresh": classmethod(lambda cls, W, r, alpha, rng: cls(W, np.full((r, W.shape[1]), np.inf), 0, 1, r))},
            "a-fresh-adapter-can-learn",
        ),
        (
            {"forward_in_training": lambda self, x, p, rng: self.forward(x * (rng.random(x.shape) > p) / (1 - p))},
            "dropout-acts-on-the-input-of-A-alone",  # on the frozen path as well
        ),
        (
            {
                "forward_in_training": lambda self, x, p, rng: (
                    x @ self.weight.T + self.scale * ((x @ self.A.T) * (rng.random((len(x), 1)) > p)) @ self.B.T
                )
            },
            "dropout-acts-on-the-input-of-A-alone",  # after A, but not divided by 1 - p
        ),
    ],
)
def test_a_mistake_is_not_a_convention(changes, law, capsys):
    assert check(type("Mistaken", (OtherConventions,), changes), LAWS[law].group, cases=20) is False
    assert f"  BROKEN   {law}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda self, x: x @ self.original + 1, "raised ValueError: matmul: "),
        (lambda self, x: (x @ self.original.T).T, "forward(x) should return shape (4, 3), got (3, 4)"),
        (lambda self, x: x + self.missing, "raised AttributeError: "),
    ],
)
def test_an_exception_in_the_first_case_is_reported_once_and_first(forward, said, capsys):
    assert check(type("Wrong", (TwentyLines,), {"forward": forward})) is False
    out = capsys.readouterr().out
    assert out.startswith("  BROKEN  the first case, W (3, 5), A (2, 5), B (3, 2), alpha = 4, r = 2, x (4, 5):\n")
    assert said in out
    assert len(out.splitlines()) == 3


def test_a_repeated_exception_is_shown_once(capsys):
    def merge(self):
        raise RuntimeError(f"later, for {len(self.weight)} rows")

    assert check(type("Later", (TwentyLines,), {"merge": merge}), "merge", cases=20) is False
    out = capsys.readouterr().out
    assert out.count("The smallest counterexample found") == 1
    assert out.count("The layer raised RuntimeError: later, for 1 rows, as above.") > 4
