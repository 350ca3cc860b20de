"""LoRA's formula with all its settings, and the initialization of the factors. The laws have tests of their own."""

import numpy as np
import pytest

from minilora import Tensor

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


@pytest.mark.parametrize("init", [True, False, "gaussian"])
def test_fresh_A_and_B(init, unit_llama, attach):
    """A is uniform in ±1/√in for any rank, because its fan-in is the input width, not r."""
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
