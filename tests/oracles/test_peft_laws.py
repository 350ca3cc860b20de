"""PEFT's own layer obeys the laws, except for rounding errors in unmerging and mixing."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from minilora.laws import CONFORMANCE, catalogue, run
from minilora.laws.kit.implementations.peft import PeftLayer

pytestmark = pytest.mark.oracle

DIFFERS = {
    "unmerging-restores-every-bit": "subtracts the update, where minilora keeps W",
    "after-unmerging-the-adapter-acts-as-before": "for the same reason",
    "swapping-adapters-by-merging-leaves-no-trace": "for the same reason",
    "mixing-by-linear-carries-the-cross-terms": "works in float32 when the adapters are float64",
    "mixing-by-svd-is-the-best-of-its-rank": "works in float32 when the adapters are float64",
}


@pytest.mark.parametrize("law", catalogue(*CONFORMANCE), ids=lambda law: law.name)
def test_peft(law):
    verdict = run(law, PeftLayer, cases=25)
    assert verdict.holds is (law.name not in DIFFERS), verdict.counterexample
    assert verdict.worst_error < 1e-6  # it differs only by rounding


@pytest.mark.parametrize("name", sorted(name for name in DIFFERS if name.startswith("mixing")))
def test_peft_mixes_as_well_as_float32_can(name):
    (law,) = [law for law in catalogue("many") if law.name == name]
    verdict = run(law, PeftLayer, cases=25, dtype="float32")
    assert verdict.holds is True, verdict.counterexample
