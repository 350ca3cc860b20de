"""The laws of adaptation methods hold for all of minilora's methods, and each law catches a mistake planted for it."""

import os

import numpy as np
import pytest

from minilora.adapters import files, rows
from minilora.adapters.host import AdaptedLinear
from minilora.adapters.rows import RowUpdates
from minilora.autograd import Tensor
from minilora.family.dora import DoraConfig, DoraUpdate
from minilora.laws import LAWS, catalogue, run

METHODS = catalogue("methods")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("law", METHODS, ids=lambda law: law.name)
def test_the_law_holds(law, dtype):
    verdict = run(law, cases=25, dtype=dtype, seed=7)
    assert verdict.holds, verdict.counterexample


def replaced(owner, name, change):
    """A mistake that changes the result of owner.name."""
    right = getattr(owner, name)
    return owner, name, lambda *inputs: change(right(*inputs))


def magnitude_off(drawn):
    return {name: array * (1.01 if "magnitude" in name else 1) for name, array in drawn.items()}


def with_the_accumulated_sum(self, total, h, x):
    """Each update receives the sum of the previous ones, as in PEFT."""
    for update, where, strengths in self.others:
        u = update.apply(x[where], total[where], self.base)
        total = total + rows._scattered(u * strengths.reshape(-1, *(1,) * (u.ndim - 1)), where, x.shape[0])
    return total


def with_a_constant_that_it_does_not_declare(self, base):
    V = base.dense().data + self.scaling * (self.lora_B.data @ self.lora_A.data)
    return self.lora_magnitude_vector / Tensor(np.sqrt((V * V).sum(axis=1)))


MISTAKES = {
    "before-training-no-method-changes-anything": replaced(DoraConfig, "draw", magnitude_off),
    "every-update-is-linear-in-its-strength": (
        AdaptedLinear,
        "_scaled",
        lambda self, update, strength, x, h: update.apply(x, h, self.base) * strength**2,
    ),
    "active-updates-of-any-methods-add-up": replaced(AdaptedLinear, "acting", lambda found: found[-1:]),
    "merging-any-methods-changes-no-output": replaced(DoraUpdate, "delta", lambda delta: delta * 1.01),
    "rows-with-any-methods-equal-single-runs": (RowUpdates, "add_others", with_the_accumulated_sum),
    "the-gradients-of-any-method-are-its-slopes": (DoraUpdate, "gain", with_a_constant_that_it_does_not_declare),
    "files-of-any-method-keep-every-bit": replaced(files, "_stored", lambda array: array * np.float32(1.01)),
    "the-rows-of-a-dora-have-the-lengths-of-its-magnitude": replaced(DoraUpdate, "gain", lambda gain: gain * 1.01),
    "a-dora-that-keeps-the-lengths-is-a-lora": (
        DoraUpdate,
        "gain",
        lambda self, base: self.lora_magnitude_vector / Tensor(np.linalg.norm(base.dense().data, axis=1)),
    ),
}


@pytest.mark.parametrize(("law", "mistake"), MISTAKES.items(), ids=MISTAKES.keys())
def test_the_law_catches_a_mistake(law, mistake, monkeypatch):
    monkeypatch.setattr(*mistake)
    assert run(LAWS[law], cases=50, seed=3).holds is False


def test_every_law_has_a_mistake():
    assert {law.name for law in METHODS} == MISTAKES.keys()
