"""`lora.inject` with defaults, loading voices by name, and a trainable LoRA layer around a single matrix."""

import numpy as np
import pytest

import minilora as ml
from minilora import lora
from minilora.autograd import Tensor
from minilora.laws.kit.implementations.own import MiniloraLayer
from minilora.training import AdamW
from minilora.voices import NAMES, voice_folder


def adapter_arrays(model):
    return {name: array for name, array in model.state_dict().items() if "lora_" in name}


def test_inject_needs_only_a_model():
    """The defaults are PEFT's targets for Llama, PEFT's rank and alpha, and seed 0."""
    short, long = ml.load_model(), ml.load_model()
    lora.inject(short)
    config = lora.LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    lora.inject(long, config, adapter="default", rng=np.random.default_rng(0))
    found, expected = adapter_arrays(short), adapter_arrays(long)
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 2 * 6
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert lora.active(short) == {"default": 1.0}


def test_settings_replace_those_of_the_config():
    model = ml.load_model()
    lora.inject(model, lora.LoraConfig(r=2, lora_alpha=6), r=3, target_modules=["down_proj"])
    host = model.model.layers[0].mlp.down_proj
    assert host.config["default"].r == 3
    assert host.updates["default"].scaling == 2
    assert model.model.layers[0].self_attn.q_proj.adapters == []


def test_another_method_is_injected_in_the_same_way():
    model = ml.load_model()
    lora.inject(model, ml.family.dora.DoraConfig(), r=2)
    assert "model.layers.0.self_attn.q_proj.lora_magnitude_vector.default" in dict(model.named_parameters())


@pytest.mark.parametrize("seeds", [(0, 0), (np.int64(3), 3)])
def test_a_seed_is_a_generator_of_that_seed(seeds):
    first, second = ml.load_model(), ml.load_model()
    lora.inject(first, rng=seeds[0])
    lora.inject(second, rng=np.random.default_rng(seeds[1]))
    a, b = adapter_arrays(first), adapter_arrays(second)
    assert all(a[name].tobytes() == b[name].tobytes() for name in b)


@pytest.mark.parametrize("name", NAMES)
def test_a_voice_is_loaded_by_its_name(name):
    by_name, by_folder = ml.load_model(), ml.load_model()
    lora.load_adapter(by_name, name)
    lora.load_adapter(by_folder, voice_folder(name), name)
    assert lora.active(by_name) == {name: 1.0}
    a, b = adapter_arrays(by_name), adapter_arrays(by_folder)
    assert a.keys() == b.keys()
    assert all(a[key].tobytes() == b[key].tobytes() for key in b)


def test_a_voice_may_be_given_another_name():
    model = ml.load_model()
    lora.load_adapter(model, "python", "snake")
    assert lora.active(model) == {"snake": 1.0}


def test_a_folder_of_that_name_comes_before_the_voice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ml.load_model()
    lora.inject(model, r=1)
    lora.save_adapter(model, "python")
    other = ml.load_model()
    lora.load_adapter(other, "python")
    assert lora.active(other) == {"default": 1.0}
    assert lora.read_adapter("python")[0].r == 1
    assert lora.read_adapter("recipe")[0].r == 8


@pytest.mark.parametrize("wrong", ["pythn", "", "../voices/python", "python/"])
def test_no_other_name_is_a_voice(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lora.AdapterError, match=r"adapter_config\.json"):
        lora.load_adapter(ml.load_model(), wrong)


@pytest.fixture
def layer():
    """A LoRA layer of rank 2 around W (5, 4), in float64, with a nonzero B."""
    W = np.random.default_rng(0).standard_normal((5, 4))
    return lora.LoraLinear(W, r=2, lora_alpha=6, rng=1, init_lora_weights=False)


def test_a_lora_layer_obeys_the_laws_formula(layer):
    rng = np.random.default_rng(2)
    A, B = (part["default"].data for part in (layer.lora_A, layer.lora_B))
    x, g = rng.standard_normal((3, 4)), rng.standard_normal((3, 5))
    W = layer.weight.data
    np.testing.assert_allclose(layer(Tensor(x)).data, x @ W.T + 3 * x @ A.T @ B.T, rtol=1e-12)
    layer(Tensor(x)).backward(g)
    expected = MiniloraLayer(W, A, B, 6, 2).gradients(x, g)
    for name in "AB":
        np.testing.assert_allclose(getattr(layer, f"lora_{name}")["default"].grad, expected[name], rtol=1e-12)
    assert layer.weight.grad is None
    np.testing.assert_allclose(layer.delta("default"), 3 * B @ A, rtol=1e-12)


def test_a_lora_layer_trains_only_a_and_b(layer):
    A, B = layer.parameters(trainable=True)
    assert (A.shape, B.shape) == ((2, 4), (5, 2))
    W = layer.weight.data.copy()
    optimizer = AdamW(layer.named_parameters())
    rng = np.random.default_rng(2)
    x, wanted = rng.standard_normal((20, 4)), rng.standard_normal((20, 5))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        error = layer(Tensor(x)) - Tensor(wanted)
        loss = (error * error).mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step(3e-2)
    assert losses[-1] < 0.7 * losses[0]
    assert layer.weight.data.tobytes() == W.tobytes()


def test_a_lora_layer_starts_as_its_matrix_and_merges():
    W = np.random.default_rng(0).standard_normal((5, 4))
    layer = lora.LoraLinear(W)
    x = Tensor(np.random.default_rng(1).standard_normal((3, 4)))
    assert layer(x).data.tobytes() == (x.data @ W.T).tobytes()
    layer.lora_B["default"].data[...] = 1
    before = layer(x).data
    lora.merge(layer)
    np.testing.assert_allclose(layer(x).data, before, rtol=1e-12)
    lora.unmerge(layer)
    assert layer(x).data.tobytes() == before.tobytes()


def test_a_lora_layer_copies_its_matrix():
    W = np.ones((2, 3))
    layer = lora.LoraLinear(W)
    W[...] = 7
    assert np.all(layer.weight.data == 1)


@pytest.mark.parametrize("weight", [[[1, 2, 3], [4, 5, 6]], np.arange(6).reshape(2, 3), Tensor(np.ones((2, 3), "f4"))])
def test_lists_and_integers_become_float32(weight):
    layer = lora.LoraLinear(weight, r=1)
    assert (layer.in_features, layer.out_features) == (3, 2)
    assert {p.dtype for p in layer.parameters()} == {np.dtype("float32")}


@pytest.mark.parametrize("weight", [3.0, [1, 2], np.ones((2, 3, 4))])
def test_what_is_no_matrix_is_refused(weight):
    with pytest.raises(ValueError, match=r"expected a matrix of shape \(out, in\), got shape"):
        lora.LoraLinear(weight)


@pytest.mark.parametrize("call", [lora.merge_and_unload, lora.unload, lambda layer: lora.save_adapter(layer, "bard")])
def test_a_single_layer_is_no_model(call, layer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lora.AdapterError, match="a single adapted Linear; make it an attribute of a Module"):
        call(layer)
    assert not layer.merged
    assert not list(tmp_path.iterdir())


def test_an_unknown_setting_is_refused_with_the_known_ones():
    model = ml.load_model()
    with pytest.raises(TypeError, match=r"LoraConfig has no setting rank; valid settings: target_modules, .* r, lora_"):
        lora.inject(model, rank=8)
    assert lora.adapters(model) == []


def test_pefts_task_type_is_accepted():
    config = lora.LoraConfig(task_type="CAUSAL_LM")
    assert config == lora.LoraConfig()
    assert config.to_dict()["task_type"] == "CAUSAL_LM"
    assert lora.LoraConfig.from_dict({**config.to_dict(), "task_type": "SEQ_CLS"}) == config
    with pytest.raises(lora.AdapterError, match="expected task_type to be 'CAUSAL_LM' or None, got 'SEQ_CLS'"):
        lora.LoraConfig(task_type="SEQ_CLS")
