"""Norms and effective ranks compared with dense NumPy, and the programs compatible with an adapter."""

import dataclasses
import math

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.adapters.targets import layer_of
from minilora.lora.facts import Loader, effective_rank, loaders, module_facts
from minilora.lora.spectrum import singular_values, thin_svd

SHAPES = [(1, 5, 7), (3, 12, 24), (8, 8, 8), (6, 4, 9), (6, 9, 4), (5, 3, 3)]  # r, in, out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_singular_values_are_those_of_the_product(shape, dtype):
    r, n_in, n_out = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((r, n_in)).astype(dtype), rng.standard_normal((n_out, r)).astype(dtype)
    dense = np.linalg.svd(b.astype(float) @ a.astype(float), compute_uv=False)
    found = singular_values(a, b)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, dense[: len(found)], rtol=1e-10, atol=1e-12 * dense[0])
    assert np.all(dense[len(found) :] < 1e-12 * dense[0])
    assert len(found) == min(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_singular_vectors_are_those_of_the_product(shape):
    """U and V have orthonormal columns, one per singular value, and U Σ Vᵀ equals B A."""
    r, n_in, n_out = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((r, n_in)), 1e3 * rng.standard_normal((n_out, r))
    left, values, right = thin_svd(a, b)
    k = min(shape)
    assert (left.shape, values.shape, right.shape) == ((n_out, k), (k,), (k, n_in))
    assert np.abs((left * values) @ right - b @ a).max() < 1e-12 * values[0]
    assert np.abs(left.T @ left - np.eye(k)).max() < 1e-12
    assert np.abs(right @ right.T - np.eye(k)).max() < 1e-12


def test_singular_values_without_the_product():
    """In float64, ΔW would take 8 TB here."""
    a, b = np.zeros((1, 10**6), np.float32), np.zeros((10**6, 1), np.float32)
    a[0, :4], b[:9] = 1, 2
    np.testing.assert_allclose(singular_values(a, b), [2 * 6])


def with_values(*values, seed=0):
    """Return A (r, 30) and B (20, r) such that B A has these singular values."""
    rng = np.random.default_rng(seed)
    right, left = (np.linalg.qr(rng.standard_normal((size, len(values))))[0] for size in (30, 20))
    mix = rng.standard_normal((len(values), len(values)))  # mixes the ranks, so that neither factor is orthogonal
    return np.linalg.inv(mix) @ (np.array(values)[:, None] * right.T), left @ mix


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((3.0,), 1),
        ((2.0, 2.0, 2.0, 2.0), 4),
        ((1e-9, 1e-9), 2),
        ((5.0, 0.0, 0.0), 1),
        ((3.0, 1.0), math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))),
        ((0.5, 0.3, 0.2), math.exp(-sum(p * math.log(p) for p in (0.5, 0.3, 0.2)))),
    ],
)
def test_effective_rank(values, expected):
    assert effective_rank(singular_values(*with_values(*values))) == pytest.approx(expected, rel=1e-9)
    a, b = with_values(*values)
    assert effective_rank(singular_values(-1e-3 * a, 1e5 * b)) == pytest.approx(
        expected, rel=1e-9
    )  # independent of the scale


def test_the_effective_rank_of_nothing_is_zero():
    assert effective_rank(singular_values(np.ones((3, 4)), np.zeros((5, 3)))) == 0  # a new adapter has B = 0
    assert effective_rank(singular_values(np.zeros((3, 4)), np.ones((5, 3)))) == 0
    assert (
        effective_rank(singular_values(np.array([[1.0, 0.0]] * 2), np.array([[1.0, -1.0]]))) == 0
    )  # the two directions cancel


def test_extreme_numbers_neither_warn_nor_overflow(recwarn):
    big = np.finfo(np.float32).max
    a, b = np.full((2, 3), big, np.float32), np.full((4, 2), big, np.float32)
    np.testing.assert_allclose(singular_values(a, b)[0], float(big) ** 2 * 2 * math.sqrt(12), rtol=1e-6)
    assert effective_rank(singular_values(a, b)) == pytest.approx(1, abs=1e-6)
    assert effective_rank(singular_values(a * np.float32(1e-38) ** 2, b)) in (0, pytest.approx(1, abs=1e-6))
    assert not recwarn.list


@pytest.fixture
def adapted(unit_llama, attach, tmp_path):
    """A model, and the config and tensors of its adapter after saving and reading."""
    model = attach(
        unit_llama(num_hidden_layers=11),
        target_modules=["q_proj", "up_proj"],
        rank_pattern={"up_proj": 5},
        alpha_pattern={r"2\..*q_proj": -4},
    )
    lora.save_adapter(model, tmp_path)
    return model, *lora.read_adapter(tmp_path)


def test_facts_about_modules(adapted):
    model, config, tensors = adapted
    modules = hosts(model)
    facts = module_facts(config, tensors, {path: module.weight.data for path, module in modules.items()})
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts[0].norm = 0.0
    assert sorted(fact.path for fact in facts) == sorted(modules)
    assert [layer_of(fact.path) for fact in facts] == sorted([*range(11), *range(11)])  # 10 after 9
    elsewhere = {key.replace("model.layers.0", "x.0"): tensor for key, tensor in tensors.items()}
    assert [layer_of(fact.path) for fact in module_facts(config, elsewhere, {})][:4] == [0, 0, 1, 1]
    for fact in facts:
        module, r = modules[fact.path], 5 if "up_proj" in fact.path else 3
        assert fact.shapes == {"lora_A": (r, 12), "lora_B": (module.out_features, r)}
        assert fact.parameters == r * (12 + module.out_features)
        norm = np.linalg.norm(module.delta("default").astype(float))
        assert fact.norm == pytest.approx(norm, rel=1e-5)
        assert fact.relative == pytest.approx(norm / np.linalg.norm(module.weight.data), rel=1e-5)
        assert 1 < fact.effective_rank <= r


def test_facts_without_a_base_or_with_an_empty_one(adapted):
    model, config, tensors = adapted
    weights = {path: module.weight.data for path, module in hosts(model).items()}
    known = "model.layers.3.self_attn.q_proj"
    alone = module_facts(config, tensors, {known: weights[known]})
    assert [fact.path for fact in alone if fact.relative is not None] == [known]
    zeros = module_facts(config, tensors, {path: 0 * weight for path, weight in weights.items()})
    assert {fact.relative for fact in zeros} == {None}
    assert [fact.norm for fact in zeros] == [fact.norm for fact in alone]


PATHS = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"]
UP = PATHS[2]
AS_IT_IS = {"PEFT": (True, ""), "vLLM": (True, ""), "llama.cpp": (True, "after convert_lora_to_gguf.py")}
CASES = {
    "plain": ({}, {}),
    "rank 16": ({"r": 16}, {}),
    "rank 17": ({"r": 17}, {"vLLM": (True, "--max-lora-rank 32")}),
    "rank 512": ({"r": 512}, {"vLLM": (True, "--max-lora-rank 512")}),
    "rank 513": ({"r": 513}, {"vLLM": (False, "its largest rank is 512, and this adapter has rank 513")}),
    "a module of rank 64": (
        {"rank_pattern": {"up_proj": 64}, "alpha_pattern": {"up_proj": 64}},
        {
            "vLLM": (True, "--max-lora-rank 64"),
            "llama.cpp": (False, f"it scales {UP} by 0.125 instead of 1"),
        },
    ),
    "rank_pattern": (
        {"rank_pattern": {"up_proj": 4}},
        {"vLLM": (False, f"it scales all modules by 1, but {UP} needs 2")},
    ),
    "alpha_pattern": (
        {"alpha_pattern": {"up_proj": 4}},
        {
            "vLLM": (False, f"it scales all modules by 1, but {UP} needs 0.5"),
            "llama.cpp": (False, f"it scales {UP} by 1 instead of 0.5"),
        },
    ),
    "an alpha_pattern that changes nothing": ({"alpha_pattern": {"up_proj": 8}}, {}),
    "rsLoRA": ({"r": 4, "use_rslora": True}, {"llama.cpp": (False, f"it scales {PATHS[0]} by 2 instead of 4")}),
    "rsLoRA of rank 1": ({"r": 1, "use_rslora": True}, {}),
    "alpha 0": ({"lora_alpha": 0}, {"llama.cpp": (False, f"it scales {PATHS[0]} by 1 instead of 0")}),
    "a negative alpha": ({"lora_alpha": -3.5}, {}),
    "layers of all": (
        {"target_modules": "all-linear", "layers_to_transform": [0]},
        {"PEFT": (False, "layers_to_transform only with a list of target_modules")},
    ),
    "layers of some": ({"layers_to_transform": [0]}, {}),
}


@pytest.mark.parametrize(("options", "expected"), CASES.values(), ids=CASES.keys())
def test_loaders(options, expected, recwarn):
    found = {taker.program: taker for taker in loaders(lora.LoraConfig(**options), PATHS)}
    assert list(found) == ["PEFT", "vLLM", "llama.cpp"]
    for program, taker in found.items():
        takes, note = expected.get(program, AS_IT_IS[program])
        assert (taker.compatible, note in taker.note) == (takes, True), taker
        assert bool(note) == bool(taker.note)


def test_the_least_buffer_of_vllm_that_holds_a_rank():
    for least, most in [(17, 32), (33, 64), (65, 128), (129, 256), (257, 320), (321, 512)]:
        for r in (least, most):
            assert loaders(lora.LoraConfig(r=r), PATHS)[1].note == f"if started with --max-lora-rank {most}"


@pytest.mark.parametrize(
    ("tied", "paths", "takes"), [(True, ["lm_head"], False), (False, ["lm_head"], True), (True, PATHS, True)]
)
def test_llama_cpp_and_the_output_head(tied, paths, takes):
    config = lora.LoraConfig(target_modules=["lm_head"])
    assert loaders(config, paths, tied)[2].compatible is takes
    assert loaders(config, paths)[2].compatible  # untied by default


def test_a_loader_says_what_it_is_about():
    taker = loaders(lora.LoraConfig(), PATHS)[0]
    assert taker == Loader("PEFT", True, "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        taker.compatible = False
