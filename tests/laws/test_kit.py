"""The conformance kit detects common mistakes: each planted mistake is caught by the law that names it."""

import functools
import itertools

import numpy as np
import pytest

from minilora import lora
from minilora.laws import CONFORMANCE, LAWS, catalogue, run
from minilora.laws.kit.implementations.own import MiniloraLayer
from minilora.laws.kit.implementations.twenty_lines import TwentyLines


def wrong(base, **methods):
    """Subclass `base` with other methods; each also receives the method that it replaces, as `right`."""

    def placed(name, method):
        return lambda self, *given: method(self, functools.partial(getattr(base, name), self), *given)

    return type("Wrong", (base,), {name: placed(name, method) for name, method in methods.items()})


def scaled(scale):
    """TwentyLines with scale(alpha, r) as its scale."""
    return wrong(TwentyLines, __init__=lambda self, right, W, A, B, alpha, r: right(W, A, B, scale(alpha, r), 1))


def forward(change):
    """TwentyLines that returns change(self, h, x) instead of h."""
    return wrong(TwentyLines, forward=lambda self, right, x: change(self, right(x), x))


def gradients(change):
    """TwentyLines with the gradients that change(self, found, x, g) returns."""
    return wrong(TwentyLines, gradients=lambda self, right, x, g: (found := right(x, g)) | change(self, found, x, g))


def sets(method, name, value):
    """TwentyLines with a `method` that only sets the attribute `name` to value(self)."""
    return wrong(TwentyLines, **{method: lambda self, right, *given: setattr(self, name, value(self))})


def spoiled(change):
    """minilora's layer with change(B, alpha) instead of B."""

    class Spoiled(MiniloraLayer):
        def _add(self, name, A, B, alpha, *rest, **options):
            super()._add(name, A, change(B, alpha), alpha, *rest, **options)

    return Spoiled


def drawn(change):
    """minilora's layer with initial factors that change(A, B, rng) modifies in place."""

    def fresh(cls, W, r, alpha, rng):
        self = MiniloraLayer.fresh(W, r, alpha, rng)
        change(self.A, self.B, rng)
        return self

    return type("Wrong", (MiniloraLayer,), {"fresh": classmethod(fresh)})


def dropping(factor):
    """minilora's layer with dropout that multiplies the inputs of A by factor(u, p), with u uniform in [0, 1)."""

    def forward_in_training(self, right, x, p, rng):
        kept = x * factor(rng.random(x.shape), p)
        return x @ self.weight.T + self.forward(kept) - kept @ self.weight.T

    return wrong(MiniloraLayer, forward_in_training=forward_in_training)


def switching(change):
    """minilora's layer, which activates change(self, strengths)."""
    return wrong(MiniloraLayer, set_active=lambda self, right, strengths: right(change(self, strengths)))


def mixing(change):
    """minilora's layer, which mixes with the weights, how and r that change(self, weights, r) returns."""
    return wrong(MiniloraLayer, mix=lambda self, right, weights, how, r=None: right(*change(self, weights, r)))


def rows(change):
    """minilora's layer, which returns change(self, right, x, names) for a mixed batch."""
    return wrong(MiniloraLayer, forward_rows=change)


class SharesItsScale(TwentyLines):
    def __init__(self, *given):
        super().__init__(*given)
        type(self).scale = self.__dict__.pop("scale")


class KeepsItsUpdate(TwentyLines):
    """ΔW is computed only once, at its first use."""

    update = functools.cached_property(lambda self: self.scale * self.B @ self.A)

    def forward(self, x):
        return x @ (self.original + self.update).T

    def merge(self):
        self.weight = self.original + self.update


class StepsOneAfterTheOther(TwentyLines):
    """The gradient of B is computed with the updated A."""

    def step(self, x, g, lr):
        self.A = self.A - lr * self.gradients(x, g)["A"]
        self.B = self.B - lr * self.gradients(x, g)["B"]


class UnmergesBySubtraction(TwentyLines):
    def unmerge(self):
        if self.weight is not self.original:
            self.weight = self.original = self.weight - self.scale * self.B @ self.A


class KeepsTheMerged(TwentyLines):
    """A second merge stores the merged weight as the one to restore."""

    def merge(self):
        self.kept = self.weight
        super().merge()

    def unmerge(self):
        self.weight = getattr(self, "kept", self.weight)


class SwapsInPlace(MiniloraLayer):
    def merge(self, sign=1):
        update = sum(strength * self._layer.delta(name) for name, strength in self._layer.active.items())
        self._layer.weight.data += sign * update

    def unmerge(self):
        self.merge(-1)


def shrunk_instead_of_svd(self, weights, r):
    """The exact sum times a factor: as far from the sum as the best approximation of rank r, but not of rank r."""
    exact = sum(w * self._layer.delta(name) for name, w in weights.items())
    left = np.linalg.norm(np.linalg.svd(exact, compute_uv=False)[r:]) / np.linalg.norm(exact)
    return {name: w * (1 - left) for name, w in weights.items()}, "cat", None


COUNT, DICE = itertools.count(), np.random.default_rng(0)

MISTAKES = {
    # the update and its scale
    "the-update-is-BA-scaled-by-alpha-over-r": scaled(lambda alpha, r: 1),
    "the-rank-divides-the-scale": scaled(lambda alpha, r: alpha),
    "with-alpha-over-r-fixed-the-rank-does-not-scale": scaled(lambda alpha, r: alpha / r**0.5),
    "rslora-divides-by-the-root-of-the-rank": type(
        "Wrong", (MiniloraLayer,), {"rslora": classmethod(lambda cls, *given: cls(*given))}
    ),
    "the-gauge-changes-nothing": forward(lambda self, h, x: h + 1e-9 * self.A.sum()),
    "the-layer-is-linear": forward(lambda self, h, x: h + 1e-9 * np.maximum(x @ self.A.T, 0) @ self.B.T),
    "tokens-are-independent": forward(lambda self, h, x: h + 0.1 * (x - x.mean(axis=0)) @ self.weight.T),
    "the-update-has-rank-at-most-r": forward(
        lambda self, h, x: h + 1e-6 * x.sum(axis=1, keepdims=True) * np.arange(len(self.weight)) ** 2
    ),
    "zero-B-is-the-identity": spoiled(lambda B, alpha: B + 1e-9),
    "alpha-scales-the-update": spoiled(lambda B, alpha: B * alpha),
    "the-same-input-gives-the-same-output": forward(lambda self, h, x: h + 1e-9 * DICE.standard_normal(h.shape)),
    "a-call-leaves-its-inputs-alone": forward(lambda self, h, x: np.copyto(x, 2 * x) or h),
    "the-dtype-stays": forward(lambda self, h, x: h * np.float64(1)),
    "a-second-layer-changes-nothing": SharesItsScale,
    "the-parameters-are-r-times-in-plus-out": wrong(
        MiniloraLayer, trainable=lambda self, right: [*right(), self.weight]
    ),
    # initialization and training
    "a-fresh-adapter-is-the-identity": drawn(lambda A, B, rng: np.copyto(B, 0.01 * rng.standard_normal(B.shape))),
    "a-fresh-adapter-can-learn": drawn(lambda A, B, rng: np.copyto(A, 0)),
    "a-fresh-A-is-scaled-by-its-inputs": drawn(lambda A, B, rng: np.copyto(A, rng.uniform(-1, 1, A.shape))),
    "the-gradients-are-projections-of-the-full-gradient": gradients(lambda self, found, x, g: {"A": -found["A"]}),
    "at-init-the-gradient-of-B-is-that-of-W-seen-through-A": gradients(
        lambda self, found, x, g: {"B": found["B"] / self.scale}
    ),
    "at-init-A-gets-no-gradient": spoiled(lambda B, alpha: B + 1e-9),
    "with-A-and-B-zero-nothing-is-ever-learned": spoiled(lambda B, alpha: B + 1e-9),
    "the-gradient-of-x-comes-through-both-paths": gradients(lambda self, found, x, g: {"x": g @ self.original}),
    "the-frozen-weight-gets-no-gradient": gradients(lambda self, found, x, g: {"W": g.T @ x}),
    "a-step-moves-A-and-B-and-not-one-bit-of-W": StepsOneAfterTheOther,
    "after-a-step-the-layer-computes-with-its-new-factors": KeepsItsUpdate,
    "dropout-draws-for-each-input-alone": dropping(lambda u, p: (u[:, :1] >= p) / (1 - p)),
    "dropout-acts-on-the-input-of-A-alone": wrong(  # also applies dropout to the base
        MiniloraLayer, forward_in_training=lambda self, right, x, p, rng: self.forward(x * (rng.random(x.shape) >= p))
    ),
    "dropout-is-unbiased": dropping(lambda u, p: u >= p),
    # merging
    "the-merged-weight-is-W-plus-the-update": sets(
        "merge", "weight", lambda self: self.original + self.scale**2 * self.B @ self.A
    ),
    "merging-twice-is-merging-once": sets("merge", "weight", lambda self: self.weight + self.scale * self.B @ self.A),
    "unmerging-restores-every-bit": UnmergesBySubtraction,
    "merging-changes-no-output": forward(lambda self, h, x: x @ self.weight.T + self.scale * (x @ self.A.T) @ self.B.T),
    "merging-leaves-A-and-B-alone": sets("merge", "B", lambda self: 0 * self.B),
    "merging-after-a-step-merges-the-new-factors": KeepsItsUpdate,
    "after-unmerging-the-adapter-acts-as-before": sets("unmerge", "weight", lambda self: self.original.copy()),
    "a-merged-layer-has-no-more-parameters": wrong(
        MiniloraLayer, merge_and_unload=lambda self, right: [*right(), np.zeros((1, 1))]
    ),
    "merging-several-adds-them-up": wrong(
        MiniloraLayer, merge=lambda self, right: self.set_active(dict.fromkeys(lora.active(self.model), 1)) or right()
    ),
    "merging-no-adapter-changes-no-bit": wrong(
        MiniloraLayer,
        merge=lambda self, right: self.set_active(lora.active(self.model) or {"a": 1e-9}) or right(),
    ),
    "swapping-adapters-by-merging-leaves-no-trace": SwapsInPlace,
    # several adapters
    "active-adapters-add-up": spoiled(lambda B, alpha: B * (1 + 1e-9)),
    "the-update-is-linear-in-the-strength": switching(lambda self, on: {name: s * abs(s) for name, s in on.items()}),
    "switching-leaves-no-trace": switching(lambda self, on: {**lora.active(self.model), **on} if on else {}),
    "with-none-active-the-layer-is-the-base": switching(lambda self, on: on or lora.active(self.model)),
    "the-order-of-adapters-does-not-matter": switching(lambda self, on: dict(list(on.items())[-1:])),
    "an-inactive-adapter-does-nothing": switching(
        lambda self, on: {name: on.get(name, 1e-7) for name in lora.adapters(self.model)}
    ),
    "mixing-by-cat-is-exact": mixing(lambda self, weights, r: ({n: w * abs(w) for n, w in weights.items()}, "cat", r)),
    "mixing-by-linear-carries-the-cross-terms": mixing(
        lambda self, weights, r: (weights, "cat", r)
    ),  # what one might expect
    "mixing-by-svd-is-the-best-of-its-rank": mixing(shrunk_instead_of_svd),
    "a-mixed-batch-equals-its-single-runs": rows(lambda self, right, x, names: self.set_active({}) or right(x, names)),
    "permuting-rows-with-their-adapters-permutes-the-output": rows(
        lambda self, right, x, names: right(x, [names[0]] * len(names))
    ),
    "a-row-without-adapter-is-the-base": rows(
        lambda self, right, x, names: right(x, [name or lora.adapters(self.model)[-1] for name in names])
    ),
    "padding-a-rank-with-zeros-changes-no-row": rows(
        lambda self, right, x, names: right(x, names) * (1 + 1e-9 * len(self._layer.lora_A["a"].data))
    ),
}
"""One mistake per law."""

MORE = [
    ("a-call-leaves-its-inputs-alone", gradients(lambda self, found, x, g: np.copyto(g, 2 * g) or {})),
    ("a-fresh-adapter-can-learn", drawn(lambda A, B, rng: np.copyto(A, A[:1]))),  # rank 1
    ("a-fresh-adapter-can-learn", drawn(lambda A, B, rng: np.copyto(A, np.random.default_rng(0).random(A.shape)))),
    ("the-gradients-are-projections-of-the-full-gradient", gradients(lambda self, d, x, g: {"B": d["B"] / len(x)})),
    ("a-step-moves-A-and-B-and-not-one-bit-of-W", sets("step", "weight", lambda self: self.weight * (1 + 1e-15))),
    ("dropout-is-unbiased", dropping(lambda u, p: (u >= 0.94 * p) / (1 - p))),
    ("dropout-is-unbiased", dropping(lambda u, p: np.where(u >= p, 1 / (1 - p), -0.01))),
    ("unmerging-restores-every-bit", KeepsTheMerged),
    ("the-update-is-linear-in-the-strength", switching(lambda self, on: {name: s or 1.0 for name, s in on.items()})),
    (
        "switching-leaves-no-trace",
        wrong(MiniloraLayer, forward=lambda self, right, x: right(x) * (1 + 1e-13 * next(COUNT))),
    ),
    ("mixing-by-svd-is-the-best-of-its-rank", mixing(lambda self, weights, r: ({"a": weights["a"]}, "svd", r))),
    ("a-mixed-batch-equals-its-single-runs", rows(lambda self, right, x, names: right(x, names) + self.forward(x))),
]
"""Other ways to break laws that state several things, or that hold bit for bit."""


@pytest.mark.parametrize(("law", "layer"), [*MISTAKES.items(), *MORE])
def test_a_mistake_is_caught_by_the_law_that_names_it(law, layer):
    dtype = "float32" if law == "the-dtype-stays" else "float64"  # the mistake shows only in float32
    verdict = run(LAWS[law], layer, cases=200, dtype=dtype)
    assert verdict.holds is False
    assert "raised" not in verdict.counterexample  # a wrong result, not an exception


def test_a_row_is_named_with_its_adapter():
    layer = MISTAKES["a-row-without-adapter-is-the-base"]
    assert "row 0 (base) should be" in run(LAWS["a-mixed-batch-equals-its-single-runs"], layer).counterexample


class InPlace(TwentyLines):
    """Works in place on the given arrays, restores W from a copy, and returns lists."""

    kept = None

    def step(self, x, g, lr):
        found = self.gradients(x, g)
        self.A -= lr * found["A"]
        self.B -= lr * found["B"]

    def merge(self):
        if self.kept is None:
            self.kept = self.weight.copy()
            self.weight += self.scale * self.B @ self.A

    def unmerge(self):
        if self.kept is not None:
            self.weight[...], self.kept = self.kept, None

    def forward(self, x):
        return list(super().forward(x) if self.kept is None else x @ self.weight.T)


class StacksAll(MiniloraLayer):
    """One matrix product for all adapters; inactive ones have strength 0."""

    def forward(self, x):
        layer = self._layer
        A = np.concatenate([a.data for a in layer.lora_A.values()])
        B = [layer.active.get(n, 0) * layer.scaling[n] * b.data for n, b in layer.lora_B.items()]
        h = x @ layer.weight.data.T
        return h if layer.merged else h + x @ A.T @ np.concatenate(B, axis=1).T

    def forward_rows(self, x, names):
        active, rows = lora.active(self.model), []
        for row, name in zip(x, names, strict=True):
            self.set_active({name: 1.0} if name else {})
            rows.append(self.forward(row))
        self.set_active(active)
        return rows


def begin_with_A_zero(A, B, rng):
    """The other initialization for which the layer is the identity."""
    A[...], B[...] = 0, rng.standard_normal(B.shape)


@pytest.mark.parametrize("layer", [InPlace, StacksAll, drawn(begin_with_A_zero)])
@pytest.mark.parametrize("law", catalogue(*CONFORMANCE), ids=lambda law: law.name)
def test_other_ways_to_do_it_right_obey_as_well(law, layer):
    verdict = run(law, layer, cases=15, seed=2)
    assert verdict.holds is not False, verdict.counterexample


def test_every_law_of_the_kit_has_a_mistake_that_it_names():
    assert {law.name for law in catalogue(*CONFORMANCE)} == MISTAKES.keys()


@pytest.mark.parametrize("layer", [MiniloraLayer, TwentyLines])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("law", catalogue(*CONFORMANCE), ids=lambda law: law.name)
def test_the_layers_without_mistakes_obey(law, dtype, layer):
    """With a different seed than the command uses by default."""
    verdict = run(law, layer, cases=25, dtype=dtype, seed=1)
    assert verdict.holds is not False, verdict.counterexample
    assert verdict.holds or layer is TwentyLines
