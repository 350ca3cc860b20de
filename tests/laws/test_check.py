"""`check(MyLoraLinear)` and its output."""

import pytest

from minilora.laws import check
from minilora.laws.kit.implementations.twenty_lines import TwentyLines
from tests.laws.test_kit import MISTAKES


class MyLoraLinear:
    """The example in the documentation with a mistake: α is not divided by r."""

    def __init__(self, W, A, B, alpha, r):
        self.W, self.A, self.B, self.scale = W, A, B, alpha

    def forward(self, x):
        return x @ self.W.T + self.scale * (x @ self.A.T) @ self.B.T


def test_a_mistake_with_its_counterexample(capsys):
    assert check(MyLoraLinear) is False
    out = capsys.readouterr().out
    assert "BROKEN  the-update-is-BA-scaled-by-alpha-over-r: h = W x + (α/r) B A x\n" in out
    assert "An adapted layer adds (α/r) B A x to the output" in out
    assert "The smallest counterexample found, in float64:" in out
    assert "out = 1, in = 1, r = 2" in out
    assert (
        "BROKEN  the-rank-divides-the-scale: [A; A], [B, B], 2r, α  ≡  A, B, r, α\n          Repeating A and B" in out
    )
    assert "h should be [[" in out
    assert "  holds   the-gauge-changes-nothing: " in out
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
    assert "BROKEN  the-merged-weight-is-W-plus-the-update" in capsys.readouterr().out
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
    expected = r"check\(\) expects a class with __init__\(W, A, B, alpha, r\) and forward\(x\)"
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
