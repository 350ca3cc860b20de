"""The layer's formula, in float64: h = W x + s · B A x, its gradients, and what of it is linear."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import Tensor, gradients
from minilora.lora import LoraLinear
from minilora.nn import Linear

X = np.random.default_rng(7).standard_normal((2, 5, 24))


def close(found, expected, bound=1e-13):
    return np.abs(found - expected).max() <= bound * np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "scaling"),
    [
        ({"r": 3, "lora_alpha": 6}, 2.0),
        ({"r": 4, "lora_alpha": 1}, 0.25),
        ({"r": 1, "lora_alpha": 5}, 5.0),
        ({"r": 4, "lora_alpha": 6, "use_rslora": True}, 3.0),
        ({"r": 3, "lora_alpha": 6, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"down_proj": 9}}, 4.5),
        ({"r": 3, "use_rslora": True, "rank_pattern": {"down_proj": 9}, "lora_alpha": 6}, 2.0),
        ({"r": 3, "lora_alpha": -6}, -2.0),
        ({"r": 40, "lora_alpha": 40}, 1.0),
    ],
)
def test_the_formula(options, scaling, one_linear):
    layer = one_linear(**options)
    W, A, B = layer.weight.data, layer.lora_A["default"].data, layer.lora_B["default"].data
    assert layer.scaling["default"] == pytest.approx(scaling, rel=1e-15)
    delta = scaling * B @ A
    assert close(layer(Tensor(X)).data, X @ W.T + X @ delta.T)
    assert close(layer.delta("default"), delta)
    assert np.linalg.matrix_rank(delta) == min(A.shape[0], 12)


def test_it_is_a_linear_with_the_same_weight(one_linear):
    layer = one_linear()
    assert isinstance(layer, LoraLinear)
    assert isinstance(layer, Linear)
    assert (layer.in_features, layer.out_features) == (24, 12)
    assert (layer.lora_A["default"].shape, layer.lora_B["default"].shape) == ((3, 24), (12, 3))


def test_the_gradients_of_A_and_B(one_linear):
    """With G the gradient that a full ΔW would get: dA = s Bᵀ G and dB = s G Aᵀ."""
    layer = one_linear()
    A, B = layer.lora_A["default"], layer.lora_B["default"]
    cotangent = np.random.default_rng(8).standard_normal((2, 5, 12))
    G = np.einsum("bto,bti->oi", cotangent, X)
    dA, dB = gradients(layer(Tensor(X)), [A, B], cotangent)
    assert close(dA, 2.0 * B.data.T @ G)
    assert close(dB, 2.0 * G @ A.data.T)


def test_at_the_start_only_B_has_a_gradient(one_linear):
    layer = one_linear(init_lora_weights=True)
    A, B = layer.lora_A["default"], layer.lora_B["default"]
    cotangent = np.random.default_rng(8).standard_normal((2, 5, 12))
    dA, dB = gradients(layer(Tensor(X)), [A, B], cotangent)
    assert not dA.any()
    assert close(dB, 2.0 * np.einsum("bto,bti->oi", cotangent, X) @ A.data.T)


def test_the_gradient_goes_on_through_both_paths(one_linear):
    layer, x = one_linear(), Tensor(X, requires_grad=True)
    cotangent = np.random.default_rng(8).standard_normal((2, 5, 12))
    (dx,) = gradients(layer(x), [x], cotangent)
    assert close(dx, cotangent @ (layer.weight.data + layer.delta("default")))


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_strengths_are_linear(one_linear, s, t):
    layer = one_linear()
    layer.attach("other", layer.config["default"], "model.layers.1.mlp.down_proj", np.random.default_rng(5))
    layer.active = {}
    base = layer(Tensor(X)).data
    moves = [X @ layer.delta(name).T for name in ("default", "other")]
    layer.active = {"default": s, "other": t}
    expected = base + s * moves[0] + t * moves[1]
    assert np.abs(layer(Tensor(X)).data - expected).max() < 1e-13 * np.abs([base, *moves]).max()


@pytest.mark.parametrize("init", [True, False, "gaussian"])
def test_fresh_A_and_B(init, unit_llama, attach):
    """A is uniform in ±1/√in, whatever the rank: its fan-in is the input's width, not r."""
    model = attach(unit_llama(), r=150, init_lora_weights=init, target_modules=["down_proj"])
    A, B = (
        np.concatenate([p.data.ravel() for name, p in model.named_parameters() if part in name])
        for part in ("lora_A", "lora_B")
    )
    assert A.dtype == np.float32
    assert abs(A.mean()) < 5 * A.std() / A.size**0.5
    if init == "gaussian":
        assert A.std() == pytest.approx(1 / 150, rel=0.05)
        assert np.abs(A).max() > 3 / 150
    else:
        assert A.std() == pytest.approx(20**-0.5 / 3**0.5, rel=0.05)
        assert 0.99 * 20**-0.5 < np.abs(A).max() <= np.float32(20**-0.5)
    if init is False:
        assert B.std() == pytest.approx(150**-0.5 / 3**0.5, rel=0.05)
    else:
        assert not B.any()
