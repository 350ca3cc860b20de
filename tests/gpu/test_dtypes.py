"""No float64 anywhere in a float32 step: every array that minilora makes on the stand-in is looked at.

What is worked out on the host is not seen here. There float64 has its place: the sampler's distribution, and the sums
of losses that are shown.
"""

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.autograd.ops import arithmetic
from minilora.generation import generate
from minilora.training import evaluate
from tests.gpu.computations import BATCH, IDS, RUN, TARGETS, llama, step, trained
from tests.gpu.standin import watching

pytestmark = pytest.mark.usefixtures("cupy")

ALLOWED = {"rotary_turns": "angles: at position 10,000 a float32 angle would be off by 3e-4; cast before use"}
EXPECTED = {np.dtype(kind) for kind in (np.float32, np.int64, np.bool_)}

WALKS = {
    "a full step": lambda: step(llama("cuda")),
    "a LoRA step": lambda: step(llama("cuda", "a")),
    "a LoRA step with dropout": lambda: step(llama("cuda", "a", dropout=0.4)),
    "several adapters with dropout": lambda: step(llama("cuda", "a", "b", "c", dropout=0.4)),
    "backward": lambda: llama("cuda", "a", "b").loss(BATCH, TARGETS).backward(),
    "adapters by row": lambda: llama("cuda", "a", "b")(BATCH, adapters=["a", None, {"a": 0.5, "b": 0.5}]),
    "generation": lambda: generate(llama("cuda", "a"), [IDS[:5], IDS[:3]], 15),
    "generation by row": lambda: generate(llama("cuda", "a", "b"), [IDS[:5]] * 2, 15, adapters=["a", "b"]),
    "evaluation": lambda: evaluate(llama("cuda", "a"), IDS, 12, 4),
}


def found(walk):
    """The functions of minilora that make arrays of an unexpected type."""
    with watching() as made:
        walk()
    assert len(made) > 100
    return {name for dtype, name in made if dtype not in EXPECTED}


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
def test_no_float64_in_a_float32_step(walk):
    assert found(walk) <= ALLOWED.keys()


def test_no_float64_in_a_whole_run(tmp_path):
    assert found(lambda: trained(llama("cuda", "a", dropout=0.4), tmp_path / "checkpoint", RUN)) <= ALLOWED.keys()


def test_what_is_allowed_is_needed():
    with no_grad():
        model = llama("cuda")
        assert found(lambda: model(BATCH)) == ALLOWED.keys()


def test_a_float64_is_found(monkeypatch):
    """One NumPy scalar is enough: it widens what it meets."""

    def logistic(x):
        return 1 / (1 + np.exp(-x)) * np.float64(1)

    monkeypatch.setattr("minilora.autograd.ops.fused.logistic", logistic)
    assert arithmetic.logistic is not logistic
    assert "silu_gate" in found(lambda: step(llama("cuda")))
