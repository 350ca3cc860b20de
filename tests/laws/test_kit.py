"""The conformance kit finds what people get wrong: each planted mistake is caught by a law that names it."""

from typing import ClassVar

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.laws import CONFORMANCE, LAWS, catalogue, run
from minilora.laws.kit.implementations.own import MiniloraLayer
from minilora.laws.kit.implementations.twenty_lines import TwentyLines


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


class DropsOutsideTraining(TwentyLines):
    rng = np.random.default_rng(0)

    def forward(self, x):
        return super().forward(x) + 1e-9 * self.rng.standard_normal((len(x), len(self.weight)))


class WritesIntoItsInput(TwentyLines):
    def forward(self, x):
        h = super().forward(x)
        x *= 2
        return h


class WritesIntoTheGradient(TwentyLines):
    def gradients(self, x, g):
        found = super().gradients(x, g)
        g *= self.scale
        return found


class WorksInDouble(TwentyLines):
    def forward(self, x):
        return super().forward(x) * np.float64(1)


class SharesItsFactors(TwentyLines):
    """The dict of adapters is the class's, not the layer's."""

    factors: ClassVar = {}

    def __init__(self, W, A, B, alpha, r):
        super().__init__(W, A, B, alpha, r)
        self.factors["B"] = self.B

    def forward(self, x):
        return x @ self.weight.T + self.scale * (x @ self.A.T) @ np.resize(self.factors["B"], self.B.shape).T


class KeepsItsUpdate(TwentyLines):
    """ΔW is formed once, at the beginning."""

    def __init__(self, W, A, B, alpha, r):
        super().__init__(W, A, B, alpha, r)
        self.update = self.scale * B @ A

    def forward(self, x):
        return x @ (self.original + self.update).T


class KeepsItsMerge(TwentyLines):
    """The merged weight is formed at the first merge."""

    merged = None

    def merge(self):
        if self.merged is None:
            self.merged = self.original + self.scale * self.B @ self.A
        self.weight = self.merged


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


class DrawsOneRow(MiniloraLayer):
    """All rows of A alike: the update stays at rank 1."""

    @classmethod
    def fresh(cls, W, r, alpha, rng):
        self = MiniloraLayer.fresh(W, r, alpha, rng)
        A = self._layer.lora_A["default"].data
        A[...] = A[:1] if r > 1 else 0.5
        return self


class AlwaysDrawsTheSame(MiniloraLayer):
    @classmethod
    def fresh(cls, W, r, alpha, rng):
        return MiniloraLayer.fresh(W, r, alpha, np.random.default_rng(0))


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


class DropsWholeTokens(MiniloraLayer):
    def forward_in_training(self, x, p, rng):
        kept = (rng.random((len(x), 1)) >= p) / (1 - p)
        return x @ self.weight.T + self.forward(x * kept) - (x * kept) @ self.weight.T


class DropsWithoutScaling(MiniloraLayer):
    def forward_in_training(self, x, p, rng):
        kept = rng.random(x.shape) >= p
        return x @ self.weight.T + self.forward(x * kept) - (x * kept) @ self.weight.T


class DropsTooLittleOfMuch(MiniloraLayer):
    def forward_in_training(self, x, p, rng):
        kept = (rng.random(x.shape) >= (0.94 * p if p > 0.5 else p)) / (1 - p)
        return x @ self.weight.T + self.forward(x * kept) - (x * kept) @ self.weight.T


class DropsTooLittleOfLittle(MiniloraLayer):
    def forward_in_training(self, x, p, rng):
        kept = (rng.random(x.shape) >= (0.8 * p if p < 0.5 else p)) / (1 - p)
        return x @ self.weight.T + self.forward(x * kept) - (x * kept) @ self.weight.T


class LeaksWhatItDrops(MiniloraLayer):
    def forward_in_training(self, x, p, rng):
        kept = np.where(rng.random(x.shape) >= p, 1 / (1 - p), -0.01)
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


class KeepsTheMerged(TwentyLines):
    """Merging again, it puts away the merged weight as the one to come back to."""

    def merge(self):
        self.kept = self.weight
        super().merge()

    def unmerge(self):
        self.weight = getattr(self, "kept", self.weight)


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
        for module in hosts(self.model).values():
            for name, strength in module.active.items():
                module.weight.data += strength * module.delta(name)

    def unmerge(self):
        for module in hosts(self.model).values():
            for name, strength in module.active.items():
                module.weight.data -= strength * module.delta(name)


class IgnoresStrength(MiniloraLayer):
    def set_active(self, strengths):
        super().set_active(dict.fromkeys(strengths, 1.0))


class SquaresStrength(MiniloraLayer):
    def set_active(self, strengths):
        super().set_active({name: s * abs(s) for name, s in strengths.items()})


class ZeroMeansOne(MiniloraLayer):
    """`strength or 1.0`, for those who do not give one."""

    def set_active(self, strengths):
        super().set_active({name: s or 1.0 for name, s in strengths.items()})


class AddsToTheActive(MiniloraLayer):
    def set_active(self, strengths):
        super().set_active({**lora.active(self.model), **strengths} if strengths else {})


class NothingKeepsTheLast(MiniloraLayer):
    def set_active(self, strengths):
        if strengths:
            super().set_active(strengths)


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


class RescalesInPlace(MiniloraLayer):
    """Multiplies B by an adapter's strength, having divided it by the strength before."""

    def set_active(self, strengths):
        before = getattr(self, "before", {})
        for name, strength in strengths.items():
            self._layer.lora_B[name].data *= strength / before.get(name, 1.0)
        self.before = {**before, **strengths}
        super().set_active(dict.fromkeys(strengths, 1.0))


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


class MixesItsPartsAway(MiniloraLayer):
    def mix(self, weights, how, r=None):
        super().mix(weights, how, r)
        for name in weights:
            self._layer.lora_B[name].data *= 0.5


class RowsChangeWhatIsActive(MiniloraLayer):
    def forward_rows(self, x, names):
        self.set_active({})
        return super().forward_rows(x, names)


class RowsAddToWhatIsActive(MiniloraLayer):
    def forward_rows(self, x, names):
        active = self.forward(x) - x @ self.weight.T if lora.active(self.model).keys() == {"b"} else 0
        return super().forward_rows(x, names) + active


class ShrinksInsteadOfSvd(MiniloraLayer):
    """As far from the sum as the best of rank r, but not of rank r: all of it, times a number."""

    def mix(self, weights, how, r=None):
        if how == "svd":
            exact = sum(w * self._layer.delta(name) for name, w in weights.items())
            left = np.linalg.norm(np.linalg.svd(exact, compute_uv=False)[r:]) / np.linalg.norm(exact)
            weights, how, r = {name: w * (1 - left) for name, w in weights.items()}, "cat", None
        super().mix(weights, how, r)


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
    DropsOutsideTraining: "the-same-input-gives-the-same-output",
    WritesIntoItsInput: "a-call-leaves-its-inputs-alone",
    WritesIntoTheGradient: "a-call-leaves-its-inputs-alone",
    WorksInDouble: "the-dtype-stays",
    SharesItsFactors: "a-second-layer-changes-nothing",
    KeepsItsUpdate: "after-a-step-the-layer-computes-with-its-new-factors",
    KeepsItsMerge: "merging-after-a-step-merges-the-new-factors",
    DrawsB: "a-fresh-adapter-is-the-identity",
    DrawsNothing: "a-fresh-adapter-can-learn",
    DrawsOneRow: "a-fresh-adapter-can-learn",
    AlwaysDrawsTheSame: "a-fresh-adapter-can-learn",
    DropsWholeTokens: "dropout-draws-for-each-input-alone",
    ZeroMeansOne: "the-update-is-linear-in-the-strength",
    AddsToTheActive: "switching-leaves-no-trace",
    NothingKeepsTheLast: "with-none-active-the-layer-is-the-base",
    MixesItsPartsAway: "mixing-by-cat-is-exact",
    RowsChangeWhatIsActive: "a-mixed-batch-equals-its-single-runs",
    RowsAddToWhatIsActive: "a-mixed-batch-equals-its-single-runs",
    FanInIsTheRank: "a-fresh-A-is-scaled-by-its-inputs",
    RootOfRForgotten: "rslora-divides-by-the-root-of-the-rank",
    DropsOutputs: "dropout-acts-on-the-input-of-A-alone",
    DropsTheBaseToo: "dropout-acts-on-the-input-of-A-alone",
    DropsWithoutScaling: "dropout-is-unbiased",
    DropsTooLittleOfMuch: "dropout-is-unbiased",
    DropsTooLittleOfLittle: "dropout-is-unbiased",
    LeaksWhatItDrops: "dropout-is-unbiased",
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
    KeepsTheMerged: "unmerging-restores-every-bit",
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
    RescalesInPlace: "switching-leaves-no-trace",
    MixesSquaredWeights: "mixing-by-cat-is-exact",
    LinearWithoutRoots: "mixing-by-linear-carries-the-cross-terms",
    LinearThatIsExact: "mixing-by-linear-carries-the-cross-terms",
    SvdOfTheFirst: "mixing-by-svd-is-the-best-of-its-rank",
    SvdKeepsAll: "mixing-by-svd-is-the-best-of-its-rank",
    ShrinksInsteadOfSvd: "mixing-by-svd-is-the-best-of-its-rank",
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
    dtype = "float32" if layer is WorksInDouble else "float64"  # where double is not what was asked for
    verdict = run(LAWS[name], layer, cases=200, dtype=dtype)
    assert verdict.holds is False
    assert "raised" not in verdict.counterexample  # it is wrong, not out of order


def test_a_row_is_named_with_its_adapter():
    wrong = run(LAWS["a-mixed-batch-equals-its-single-runs"], NoneIsTheActive)
    assert "row 0 (base) should be" in wrong.counterexample


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


class StepsInPlace(TwentyLines):
    """On the very arrays that it was given."""

    def step(self, x, g, lr):
        found = self.gradients(x, g)
        self.A -= lr * found["A"]
        self.B -= lr * found["B"]


class MergesInPlace(TwentyLines):
    """With a copy of W to put back."""

    kept = None

    def merge(self):
        if self.kept is None:
            self.kept = self.weight.copy()
            self.weight += self.scale * self.B @ self.A

    def unmerge(self):
        if self.kept is not None:
            self.weight[...], self.kept = self.kept, None

    def forward(self, x):
        h = x @ self.weight.T
        return h if self.kept is not None else h + self.scale * (x @ self.A.T) @ self.B.T

    def gradients(self, x, g):
        base = self.weight if self.kept is None else self.kept
        back = self.scale * g @ self.B
        return {"A": back.T @ x, "B": self.scale * g.T @ (x @ self.A.T), "x": g @ base + back @ self.A}


class AnswersInLists(TwentyLines):
    def forward(self, x):
        return list(super().forward(x))


class BeginsWithA(MiniloraLayer):
    """B at random and A zero, the other way to begin at the identity."""

    @classmethod
    def fresh(cls, W, r, alpha, rng):
        self = MiniloraLayer.fresh(W, r, alpha, rng)
        A, B = self._layer.lora_A["default"].data, self._layer.lora_B["default"].data
        A[...], B[...] = 0, rng.standard_normal(B.shape)
        return self


class StacksAll(MiniloraLayer):
    """One product for all adapters, those that are off with strength 0."""

    def forward(self, x):
        layer = self._layer
        h = x @ layer.weight.data.T
        if layer.merged:
            return h
        A = np.concatenate([a.data for a in layer.lora_A.values()])
        B = np.concatenate(
            [layer.active.get(n, 0) * layer.scaling[n] * b.data for n, b in layer.lora_B.items()], axis=1
        )
        return h + x @ A.T @ B.T

    def forward_rows(self, x, names):
        active, rows = lora.active(self.model), []
        for row, name in zip(x, names, strict=True):
            self.set_active({name: 1.0} if name else {})
            rows.append(self.forward(row))
        self.set_active(active)
        return np.stack(rows)


@pytest.mark.parametrize("layer", [StepsInPlace, MergesInPlace, AnswersInLists, BeginsWithA, StacksAll])
@pytest.mark.parametrize("law", catalogue(*CONFORMANCE), ids=lambda law: law.name)
def test_other_ways_to_do_it_right_obey_as_well(law, layer):
    verdict = run(law, layer, cases=15, seed=2)
    assert verdict.holds is not False, verdict.counterexample


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
