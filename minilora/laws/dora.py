"""Laws of DoRA: the norm of each row of the adapted weight is a separate parameter."""

from __future__ import annotations

import numpy as np

from minilora.adapters.attach import hosts, inject
from minilora.adapters.host import AdaptedLinear
from minilora.family.dora import DoraConfig
from minilora.laws.kit.case import Case
from minilora.laws.kit.implementations.own import Holder
from minilora.laws.kit.law import law, rounding
from minilora.laws.kit.layer import draw_inputs, draw_weight
from minilora.laws.methods import outputs

LIU = "Liu et al. 2024 (DoRA), section 4.1, eq. 5"
DIVIDED = rounding(1e-11, 1e-4)


def draw_dora(case: Case) -> tuple[AdaptedLinear, np.ndarray]:
    """Draw a layer with a DoRA adapter, with A and B of unit scale. Also returns V = W + s B A, by definition."""
    W, r = draw_weight(case), case.size("r", 1, 3)
    model, alpha = Holder(W), case.number("alpha", positive=True)
    inject(model, DoraConfig(r=r, lora_alpha=alpha, target_modules=["linear"]), rng=case.rng)
    layer = hosts(model)["linear"]
    A, B = layer.lora_A["default"].data, layer.lora_B["default"].data
    A[...], B[...] = case.array("A", *A.shape), case.array("B", *B.shape)
    return layer, W + alpha / r * (B @ A)


@law("methods", "‖W'‖_row = |m|,  where V is not 0", LIU, bound=DIVIDED)
def the_rows_of_a_dora_have_the_lengths_of_its_magnitude(case: Case) -> None:
    """For any A and B, the row norms of the adapted weight are |m|: A and B set only the directions."""
    layer, V = draw_dora(case)
    m = layer.lora_magnitude_vector["default"].data
    m[...] = case.array("m", *m.shape)
    adapted = layer.base.weight.data + layer.delta("default")
    case.equal("row norms", np.sqrt(np.sum(adapted**2, axis=1)), np.abs(m) * V.any(axis=1))


@law("methods", "m = ‖V‖_row  ⇒  h = W x + s B A x", LIU, bound=DIVIDED)
def a_dora_that_keeps_the_lengths_is_a_lora(case: Case) -> None:
    """If m holds the row norms of W + s B A, DoRA gives the same output as LoRA."""
    layer, V = draw_dora(case)
    layer.lora_magnitude_vector["default"].data[...] = np.sqrt(np.sum(V**2, axis=1))
    x = draw_inputs(case, V)
    case.equal("h", outputs(layer, x), x @ V.T)
