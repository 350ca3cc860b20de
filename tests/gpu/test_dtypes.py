"""No float64 in a float32 step: the dtype of every array that minilora creates on the stand-in is checked.

Computations on the host are not checked. There, float64 is intended for the sampler's distribution and for the sums of
reported losses.
"""

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.autograd.ops import arithmetic
from tests.gpu.computations import BATCH, COMPUTATIONS, llama, step
from tests.gpu.standin import watching

pytestmark = pytest.mark.usefixtures("cupy")

ALLOWED = {"rotary_tables": "angles: at position 10,000 a float32 angle would be off by 3e-4; cast before use"}
EXPECTED = {np.dtype(kind) for kind in (np.float32, np.int64, np.bool_)}

WALKS = ["a_step_of_everything", "a_step_of_adapters", "a_step_by_backward", "a_run_with_dropout_on_two_threads"]
WALKS += ["rows_with_adapters_of_their_own", "texts"]


def found(walk):
    """The functions of minilora that create arrays of an unexpected dtype."""
    with watching() as made:
        walk()
    assert len(made) > 100
    return {name for dtype, name in made if dtype not in EXPECTED}


@pytest.mark.parametrize("walk", WALKS)
def test_no_float64_in_float32(walk, tmp_path):
    assert found(lambda: COMPUTATIONS[walk]("cuda", tmp_path)) <= ALLOWED.keys()


def test_what_is_allowed_is_needed():
    with no_grad():
        model = llama("cuda")
        assert found(lambda: model(BATCH)) == ALLOWED.keys()


def test_a_float64_is_found(monkeypatch):
    """A single float64 NumPy scalar widens the result."""

    def logistic(x):
        return 1 / (1 + np.exp(-x)) * np.float64(1)

    monkeypatch.setattr("minilora.autograd.ops.fused.logistic", logistic)
    assert arithmetic.logistic is not logistic
    assert "silu_gate" in found(lambda: step(llama("cuda")))
