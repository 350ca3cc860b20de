"""The conformance kit finds what people get wrong: each planted mistake is caught by a law that names it."""

import numpy as np
import pytest

from minilora import lora
from minilora.laws import CONFORMANCE, LAWS, catalogue, run
from minilora.laws.implementations.own import MiniloraLayer
from minilora.laws.implementations.twenty_lines import TwentyLines
from minilora.lora.inject import lora_modules


class NoAlphaOverR(TwentyLines):
    def __init__(self, W, A, B, alpha, r):
        super().__init__(W, A, B, 1.0, 1)


class AlphaWithoutR(TwentyLines):
    def __init__(self, W, A, B, alpha, r):
        super().__init__(W, A, B, alpha, 1)


class AlphaOverRootR(TwentyLines):
    def __init__(self, W, A, B, alpha, r):
        super().__init__(W, A, B, alpha, r**0.5)


class FactorsSwapped(TwentyLines):
    """x Bᵀ Aᵀ where x Aᵀ Bᵀ is meant; on square layers no shape complains."""

    def forward(self, x):
        low = x @ np.resize(self.B.T, self.A.shape).T
        return x @ self.weight.T + self.scale * low @ np.resize(self.A.T, self.B.shape).T


class NonlinearBetween(TwentyLines):
    def forward(self, x):
        return x @ self.weight.T + self.scale * np.maximum(x @ self.A.T, 0) @ self.B.T


class NormalisesOverTokens(TwentyLines):
    def forward(self, x):
        return super().forward(x) + 0.1 * (x - x.mean(axis=0)) @ self.weight.T


class FullRank(TwentyLines):
    """Adds a little of everything to ΔW, as noise would."""

    def forward(self, x):
        return super().forward(x) + 1e-6 * x.sum(axis=1, keepdims=True) * np.arange(len(self.weight)) ** 2


class DrawsB(MiniloraLayer):
    @classmethod
    def fresh(cls, W, r, alpha, rng):
        self = MiniloraLayer.fresh(W, r, alpha, rng)
        self._layer.lora_B["default"].data[...] = 0.01 * rng.standard_normal((len(W), r))
        return self


class DrawsNothing(MiniloraLayer):
    @classmethod
    def fresh(cls, W, r, alpha, rng):
        self = MiniloraLayer.fresh(W, r, alpha, rng)
        self._layer.lora_A["default"].data[...] = 0
        return self


class FanInIsTheRank(MiniloraLayer):
    """Kaiming's bound on the transposed matrix."""

    @classmethod
    def fresh(cls, W, r, alpha, rng):
        self = MiniloraLayer.fresh(W, r, alpha, rng)
        self._layer.lora_A["default"].data[...] = rng.uniform(-1, 1, (r, W.shape[1])) / r**0.5
        return self


class RootOfRForgotten(MiniloraLayer):
    @classmethod
    def rslora(cls, W, A, B, alpha, r):
        return cls(W, A, B, alpha, r)


class DropsOutputs(MiniloraLayer):
    def forward_in_training(self, x, p, rng):
        base = x @ self.weight.T
        update = self.forward(x) - base
        return base + update * (rng.random(update.shape) >= p) / (1 - p)


class DropsTheBaseToo(MiniloraLayer):
    def forward_in_training(self, x, p, rng):
        return self.forward(x * (rng.random(x.shape) >= p) / (1 - p))


class DropsWithoutScaling(MiniloraLayer):
    def forward_in_training(self, x, p, rng):
        kept = rng.random(x.shape) >= p
        return x @ self.weight.T + self.forward(x * kept) - (x * kept) @ self.weight.T


class KeepsTheWrongShare(MiniloraLayer):
    def forward_in_training(self, x, p, rng):
        kept = (rng.random(x.shape) >= 0.9 * p) / (1 - p)
        return x @ self.weight.T + self.forward(x * kept) - (x * kept) @ self.weight.T


class GradientsSwapped(TwentyLines):
    def gradients(self, x, g):
        found = super().gradients(x, g)
        return {**found, "A": -found["A"]}


class GradientUnscaled(TwentyLines):
    def gradients(self, x, g):
        found = super().gradients(x, g)
        return {**found, "B": found["B"] / self.scale}


class MeanOverTokens(TwentyLines):
    def gradients(self, x, g):
        found = super().gradients(x, g)
        return {**found, "A": found["A"] / len(x), "B": found["B"] / len(x)}


class ForgetsThePathBack(TwentyLines):
    def gradients(self, x, g):
        return {**super().gradients(x, g), "x": g @ self.original}


class TrainsW(TwentyLines):
    def gradients(self, x, g):
        return {**super().gradients(x, g), "W": g.T @ x}


class MovesW(TwentyLines):
    def step(self, x, g, lr):
        super().step(x, g, lr)
        self.weight = self.weight - 1e-9 * lr * g.T @ x


class StepsOneAfterTheOther(TwentyLines):
    """B's gradient from the A that was moved already."""

    def step(self, x, g, lr):
        self.A = self.A - lr * self.gradients(x, g)["A"]
        self.B = self.B - lr * self.gradients(x, g)["B"]


class TrainsTooMuch(MiniloraLayer):
    def trainable(self):
        return [*super().trainable(), self.weight]


class ScalesTwiceOnMerge(TwentyLines):
    def merge(self):
        self.weight = self.original + self.scale**2 * self.B @ self.A


class MergesTheTranspose(TwentyLines):
    def merge(self):
        self.weight = self.original + self.scale * np.resize((self.B @ self.A).T, self.original.shape)


class MergesAgain(TwentyLines):
    def merge(self):
        self.weight = self.weight + self.scale * self.B @ self.A


class UnmergesBySubtraction(TwentyLines):
    def unmerge(self):
        if self.weight is not self.original:
            self.weight = self.weight - self.scale * self.B @ self.A
            self.original = self.weight


class CountsTwiceWhenMerged(TwentyLines):
    def forward(self, x):
        return x @ self.weight.T + self.scale * (x @ self.A.T) @ self.B.T


class MergeEatsB(TwentyLines):
    def merge(self):
        super().merge()
        self.B = 0 * self.B


class StaysFlagged(TwentyLines):
    """After unmerging, the adapter's path is not taken any more."""

    def unmerge(self):
        self.weight = self.original.copy()


class KeepsItsFactors(MiniloraLayer):
    def merge_and_unload(self):
        return [*super().merge_and_unload(), np.zeros((1, 1))]


class MergesAtFullStrength(MiniloraLayer):
    def merge(self):
        self.set_active(dict.fromkeys(lora.active(self.model), 1.0))
        super().merge()


class MergesTheInactive(MiniloraLayer):
    def merge(self):
        if not lora.active(self.model):
            self.set_active({lora.adapters(self.model)[0]: 1e-9})
        super().merge()


class SwapsInPlace(MiniloraLayer):
    def merge(self):
        for _, module in lora_modules(self.model):
            for name, strength in module.active.items():
                module.weight.data += strength * module.delta(name)

    def unmerge(self):
        for _, module in lora_modules(self.model):
            for name, strength in module.active.items():
                module.weight.data -= strength * module.delta(name)


class IgnoresStrength(MiniloraLayer):
    def set_active(self, strengths):
        super().set_active(dict.fromkeys(strengths, 1.0))


class SquaresStrength(MiniloraLayer):
    def set_active(self, strengths):
        super().set_active({name: s * abs(s) for name, s in strengths.items()})


class LastOneWins(MiniloraLayer):
    def set_active(self, strengths):
        super().set_active(dict(list(strengths.items())[-1:]))


class AllActAlways(MiniloraLayer):
    def set_active(self, strengths):
        super().set_active({name: strengths.get(name, 1e-7) for name in lora.adapters(self.model)})


class CannotBeSwitchedOff(MiniloraLayer):
    def set_active(self, strengths):
        super().set_active(strengths or {lora.adapters(self.model)[0]: 1.0})


class RemembersTheLast(MiniloraLayer):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) * (1 + 1e-13 * self.calls)


class MixesSquaredWeights(MiniloraLayer):
    def mix(self, weights, how, r=None):
        super().mix({name: w * abs(w) for name, w in weights.items()}, how, r)


class LinearWithoutRoots(MiniloraLayer):
    def mix(self, weights, how, r=None):
        super().mix({name: w * abs(w) for name, w in weights.items()} if how == "linear" else weights, how, r)


class LinearThatIsExact(MiniloraLayer):
    """What one would like "linear" to be, and what it is not."""

    def mix(self, weights, how, r=None):
        super().mix(weights, "cat" if how == "linear" else how, r)


class SvdOfTheFirst(MiniloraLayer):
    def mix(self, weights, how, r=None):
        super().mix(dict(list(weights.items())[:1]) if how == "svd" else weights, how, r)


class SvdKeepsAll(MiniloraLayer):
    def mix(self, weights, how, r=None):
        super().mix(weights, "cat" if how == "svd" else how, None if how == "svd" else r)


class OneAdapterForAllRows(MiniloraLayer):
    def forward_rows(self, x, names):
        return super().forward_rows(x, [names[0]] * len(names))


class RowsSorted(MiniloraLayer):
    """Groups rows by adapter and forgets to put them back."""

    def forward_rows(self, x, names):
        order = np.argsort([str(name) for name in names], kind="stable")
        return super().forward_rows(x[order], [names[i] for i in order])


class NoneIsTheActive(MiniloraLayer):
    def forward_rows(self, x, names):
        last = lora.adapters(self.model)[-1]
        return super().forward_rows(x, [name or last for name in names])


class RowsByTheLargestRank(MiniloraLayer):
    """Scales every row by the rank of the padded table."""

    def forward_rows(self, x, names):
        rank = max(len(a.data) for a in self._layer.lora_A.values())
        base = x @ self.weight.T
        scale = [len(self._layer.lora_A[name].data) / rank if name else 1.0 for name in names]
        return base + (super().forward_rows(x, names) - base) * np.array(scale)[:, None, None]


MISTAKES = {
    NoAlphaOverR: "the-update-is-BA-scaled-by-alpha-over-r",
    AlphaWithoutR: "the-rank-divides-the-scale",
    AlphaOverRootR: "with-alpha-over-r-fixed-the-rank-does-not-scale",
    FactorsSwapped: "the-gauge-changes-nothing",
    NonlinearBetween: "the-layer-is-linear",
    NormalisesOverTokens: "tokens-are-independent",
    FullRank: "the-update-has-rank-at-most-r",
    DrawsB: "a-fresh-adapter-is-the-identity",
    DrawsNothing: "a-fresh-A-is-scaled-by-its-inputs",
    FanInIsTheRank: "a-fresh-A-is-scaled-by-its-inputs",
    RootOfRForgotten: "rslora-divides-by-the-root-of-the-rank",
    DropsOutputs: "dropout-acts-on-the-input-of-A-alone",
    DropsTheBaseToo: "dropout-acts-on-the-input-of-A-alone",
    DropsWithoutScaling: "dropout-is-unbiased",
    KeepsTheWrongShare: "dropout-is-unbiased",
    GradientsSwapped: "the-gradients-are-projections-of-the-full-gradient",
    GradientUnscaled: "at-init-the-gradient-of-B-is-that-of-W-seen-through-A",
    MeanOverTokens: "the-gradients-are-projections-of-the-full-gradient",
    ForgetsThePathBack: "the-gradient-of-x-comes-through-both-paths",
    TrainsW: "the-frozen-weight-gets-no-gradient",
    MovesW: "a-step-moves-A-and-B-and-not-one-bit-of-W",
    StepsOneAfterTheOther: "a-step-moves-A-and-B-and-not-one-bit-of-W",
    TrainsTooMuch: "the-parameters-are-r-times-in-plus-out",
    ScalesTwiceOnMerge: "the-merged-weight-is-W-plus-the-update",
    MergesTheTranspose: "the-merged-weight-is-W-plus-the-update",
    MergesAgain: "merging-twice-is-merging-once",
    UnmergesBySubtraction: "unmerging-restores-every-bit",
    CountsTwiceWhenMerged: "merging-changes-no-output",
    MergeEatsB: "merging-leaves-A-and-B-alone",
    StaysFlagged: "after-unmerging-the-adapter-acts-as-before",
    KeepsItsFactors: "a-merged-layer-has-no-more-parameters",
    MergesAtFullStrength: "merging-several-adds-them-up",
    MergesTheInactive: "merging-no-adapter-changes-no-bit",
    SwapsInPlace: "swapping-adapters-by-merging-leaves-no-trace",
    IgnoresStrength: "the-update-is-linear-in-the-strength",
    SquaresStrength: "the-update-is-linear-in-the-strength",
    LastOneWins: "the-order-of-adapters-does-not-matter",
    AllActAlways: "an-inactive-adapter-does-nothing",
    CannotBeSwitchedOff: "with-none-active-the-layer-is-the-base",
    RemembersTheLast: "switching-leaves-no-trace",
    MixesSquaredWeights: "mixing-by-cat-is-exact",
    LinearWithoutRoots: "mixing-by-linear-carries-the-cross-terms",
    LinearThatIsExact: "mixing-by-linear-carries-the-cross-terms",
    SvdOfTheFirst: "mixing-by-svd-is-the-best-of-its-rank",
    SvdKeepsAll: "mixing-by-svd-is-the-best-of-its-rank",
    OneAdapterForAllRows: "a-mixed-batch-equals-its-single-runs",
    RowsSorted: "permuting-rows-with-their-adapters-permutes-the-output",
    NoneIsTheActive: "a-row-without-adapter-is-the-base",
    RowsByTheLargestRank: "padding-a-rank-with-zeros-changes-no-row",
}
"""Each mistake with the law that should name it."""

CAUGHT_BY_THE_WAY = {
    "zero-B-is-the-identity": lambda W, A, B, alpha, r: B + 1e-9,
    "alpha-scales-the-update": lambda W, A, B, alpha, r: B * alpha,
    "at-init-A-gets-no-gradient": lambda W, A, B, alpha, r: B + 1e-9,
    "with-A-and-B-zero-nothing-is-ever-learned": lambda W, A, B, alpha, r: B + 1e-9,
    "active-adapters-add-up": lambda W, A, B, alpha, r: B * (1 + 1e-9),
}
"""Laws that the mistakes above break as well, with a change of B that breaks them alone."""


@pytest.mark.parametrize(("layer", "name"), MISTAKES.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_mistake_is_caught_by_the_law_that_names_it(layer, name):
    verdict = run(LAWS[name], layer, cases=200)
    assert verdict.holds is False
    assert "raised" not in verdict.counterexample  # it is wrong, not out of order


@pytest.mark.parametrize(("name", "spoil"), CAUGHT_BY_THE_WAY.items())
def test_the_other_laws_can_fail_too(name, spoil):
    class Spoiled(MiniloraLayer):
        def __init__(self, W, A, B, alpha, r):
            super().__init__(W, A, spoil(W, A, B, alpha, r), alpha, r)

        @classmethod
        def many(cls, W, adapters):
            spoiled = {n: (A, spoil(W, A, B, alpha, r), alpha, r) for n, (A, B, alpha, r) in adapters.items()}
            return MiniloraLayer.many(W, spoiled)

    assert run(LAWS[name], Spoiled, cases=100).holds is False


def test_every_law_of_the_kit_has_a_mistake_that_it_names():
    assert {law.name for law in catalogue(*CONFORMANCE)} == {*MISTAKES.values(), *CAUGHT_BY_THE_WAY}


@pytest.mark.parametrize("layer", [MiniloraLayer, TwentyLines])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("law", catalogue(*CONFORMANCE), ids=lambda law: law.name)
def test_the_layers_without_mistakes_obey(law, dtype, layer):
    """With cases that the command does not try: another seed."""
    verdict = run(law, layer, cases=25, dtype=dtype, seed=1)
    assert verdict.holds is not False, verdict.counterexample
    assert verdict.holds or layer is TwentyLines
