"""The gradients of the complete model against finite differences, in float64 at unit scale."""

import numpy as np
import pytest

from minilora import gradients, no_grad

SHAPES = {
    "grouped, tied": {},
    "one key head, untied": {"num_key_value_heads": 1, "tie_word_embeddings": False},
    "ungrouped, large eps": {"num_key_value_heads": 4, "rms_norm_eps": 0.5, "rope_theta": 20.0},
}


def slope(function, p, direction):
    """The slope of `function` at p along `direction`: a central difference of fourth order."""
    origin, h = p.data, 2e-4 / np.abs(direction).max()

    def at(step):
        p.data = origin + step * h * direction
        return function()

    value = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
    p.data = origin
    return value


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_parameter(shape, unit_llama, draw_ids):
    model, rng = unit_llama(seed=4, **shape), np.random.default_rng(5)
    model.astype(np.float64)
    ids = draw_ids(model, time=7)
    ids[0, :3] = ids[1, 0]  # the same token at several positions
    cotangent = rng.standard_normal((2, 7, 29))

    @no_grad()
    def function():
        return np.sum(model(ids).data * cotangent)

    names, parameters = zip(*model.named_parameters(), strict=True)
    for name, p, g in zip(names, parameters, gradients(model(ids), parameters, cotangent), strict=True):
        assert np.linalg.norm(g) > 1e-6, f"the gradient of {name} is almost zero"
        for _ in range(2):
            direction = rng.standard_normal(p.shape)
            claimed, measured = np.sum(g * direction), slope(function, p, direction)
            assert abs(claimed - measured) < 1e-7 * np.linalg.norm(g), name
