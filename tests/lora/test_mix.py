"""Mixing adapters: cat is exact, svd is the best approximation of its rank, linear has the documented cross terms."""

import dataclasses
import math

import numpy as np
import pytest

from minilora import lora
from minilora.adapters.attach import hosts

IDS = np.random.default_rng(4).integers(29, size=(3, 9))
WEIGHTS = [
    {"a": 0.7, "b": 0.3},
    {"a": 1.5, "b": -2, "c": 0.5},
    {"c": -1},
    {"a": 0, "b": 1, "c": 2},
    {"b": 0, "c": 0},
]
weightings = pytest.mark.parametrize("weights", WEIGHTS, ids=str)


@pytest.fixture
def model(three_adapters):
    return three_adapters()


@pytest.fixture
def equal_ranks(unit_llama, attach):
    """A model with adapters x and y on q and v and z on q and k, all of rank 3, with different scales."""
    model = unit_llama()
    attach(model, "x", seed=1)
    attach(model, "y", seed=2, lora_alpha=1)
    attach(model, "z", seed=3, lora_alpha=-4, target_modules=["q_proj", "k_proj"])
    model.astype(np.float64)
    return model


def updates(model, adapter):
    """Return ΔW of one adapter as dense matrices, by path."""
    return {path: module.delta(adapter) for path, module in hosts(model).items() if adapter in module.config}


def weighted_sum(model, weights):
    """Return Σ wᵢ ΔWᵢ, by path."""
    total = {}
    for name, weight in weights.items():
        for path, delta in updates(model, name).items():
            total[path] = total.get(path, 0) + weight * delta
    return total


def ranks(model, adapter):
    return {p: len(module.lora_A[adapter].data) for p, module in hosts(model).items() if adapter in module.config}


def close(found, expected, bound=1e-12):
    return found.shape == expected.shape and np.abs(found - expected).max() <= bound * np.abs(expected).max()


def all_close(found, expected, bound=1e-12):
    return found.keys() == expected.keys() and all(close(found[path], expected[path], bound) for path in expected)


@weightings
def test_cat_is_the_weighted_sum(weights, model):
    made = lora.mix(model, weights)
    assert all_close(updates(model, "mixed"), weighted_sum(model, weights))
    mixed = model(IDS).data
    lora.set_active(model, weights)
    assert close(mixed, model(IDS).data)
    assert set(made.error.values()) == {0}
    assert set(made.kept.values()) == {1}


@weightings
def test_the_rank_of_cat_is_the_sum_of_the_ranks(weights, model):
    before = {name: ranks(model, name) for name in weights}
    made = lora.mix(model, weights)
    assert made.rank == ranks(model, "mixed")
    assert made.rank == {path: sum(of.get(path, 0) for of in before.values()) for path in set().union(*before.values())}


@pytest.mark.parametrize("r", [1, 2, 3, 4, 7])
@weightings
def test_svd_loses_what_lies_beyond_the_largest_singular_values(weights, r, model):
    """Eckart and Young: ‖ΔW - svd‖² is the sum of the discarded σ², and the result is the truncated SVD itself."""
    made = lora.mix(model, weights, "mixed", "svd", r)
    found = updates(model, "mixed")
    for path, exact in weighted_sum(model, weights).items():
        left, values, right = np.linalg.svd(exact)
        discarded, energy = (values[r:] ** 2).sum(), (values**2).sum()
        assert made.rank[path] <= r
        assert np.abs(found[path] - (left[:, :r] * values[:r]) @ right[:r]).max() <= 1e-11 * np.abs(exact).max()
        assert abs(((exact - found[path]) ** 2).sum() - discarded) <= 1e-12 * energy
        assert made.error[path] == pytest.approx(math.sqrt(discarded / energy) if energy else 0, rel=1e-9, abs=1e-7)
        assert made.kept[path] == pytest.approx((values[:r] ** 2).sum() / energy if energy else 1, abs=1e-12)


def test_svd_shares_the_singular_values_out_evenly(model):
    """Both factors have the same scale: A Aᵀ = Bᵀ B = diag σ."""
    lora.mix(model, {"a": 1, "b": 1}, how="svd", r=3)
    for path, module in hosts(model).items():
        if "mixed" in module.config:
            A, B = module.lora_A["mixed"].data, module.lora_B["mixed"].data
            values = np.linalg.svd(B @ A, compute_uv=False)[: len(A)]
            assert np.abs(A @ A.T - np.diag(values)).max() < 1e-12 * values[0], path
            assert np.abs(B.T @ B - np.diag(values)).max() < 1e-12 * values[0], path


def test_the_rank_of_svd(model):
    """By default the largest rank of the module's adapters, and at most the sum of their ranks."""
    default = lora.mix(model, {"a": 1, "b": 1, "c": 1}, "default", "svd")
    assert default.rank == {
        path: max(len(module.lora_A[name].data) for name in module.config if name in "abc")
        for path, module in hosts(model).items()
    }
    asked = lora.mix(model, {"a": 1, "b": 1, "c": 1}, "asked", "svd", np.int64(100))
    stacked = lora.mix(model, {"a": 1, "b": 1, "c": 1}, "stacked", "cat")
    assert asked.rank == stacked.rank == ranks(model, "asked")
    assert set(asked.error.values()) == {0}
    assert all_close(updates(model, "asked"), updates(model, "stacked"))


@pytest.mark.parametrize("how", ["cat", "svd"])
def test_ranks_beyond_the_width_of_a_module(how, unit_llama, attach):
    model = unit_llama()
    for name in "xy":
        attach(model, name, seed=ord(name), r=11)
    model.astype(np.float64)
    made = lora.mix(model, {"x": 1, "y": 2}, how=how, r=20 if how == "svd" else None)
    assert set(made.rank.values()) == ({22} if how == "cat" else {12})  # with width 12, the rank is at most 12
    assert all_close(updates(model, "mixed"), weighted_sum(model, {"x": 1, "y": 2}))


@pytest.mark.parametrize("weights", [{"x": 0.7, "y": 0.3}, {"x": 1, "y": -2, "z": 0.5}, {"z": 3}, {"x": 0, "y": -2}])
def test_linear_has_the_cross_terms_that_it_says(weights, equal_ranks):
    """ΔW = Σᵢⱼ √|wᵢsᵢ| √|wⱼsⱼ| sign(wⱼsⱼ) Bᵢ Aⱼ."""
    model = equal_ranks
    made = lora.mix(model, weights, how="linear")
    exact, found = weighted_sum(model, weights), updates(model, "mixed")
    for path, module in hosts(model).items():
        if path in exact:
            here = [(w * module.scaling[name], name) for name, w in weights.items() if name in module.config]
            expected = sum(
                math.sqrt(abs(wi * wj)) * np.sign(wj) * module.lora_B[i].data @ module.lora_A[j].data
                for wi, i in here
                for wj, j in here
            )
            assert close(found[path], expected), path
            distance = np.linalg.norm(expected - exact[path]) / np.linalg.norm(exact[path])
            assert made.error[path] == pytest.approx(distance, rel=1e-9, abs=1e-12), path
            assert (made.error[path] == 0) == (sum(w != 0 for w, _ in here) == 1), path
    assert set(made.rank.values()) == {3}


@pytest.mark.parametrize(("size_A", "size_B"), [(1, 1), (1e4, 1), (1, 1e4)])
def test_adapters_that_cancel(size_A, size_B, equal_ranks):
    """If Σ wᵢ ΔWᵢ is zero up to rounding, cat and svd report an error of 0, and linear an infinite one."""
    model = equal_ranks
    for module in hosts(model).values():
        if "x" in module.config:
            A, B = (part["x"].data for part in (module.lora_A, module.lora_B))
            A_too, B_too = (part["y"].data for part in (module.lora_A, module.lora_B))
            A *= size_A
            B *= size_B
            A_too[...], B_too[...] = 2 * A, module.scaling["x"] / module.scaling["y"] / 2 * B
    for how in ("cat", "svd"):
        assert set(lora.mix(model, {"x": 1, "y": -1}, f"by-{how}", how).error.values()) == {0}
    assert set(lora.mix(model, {"x": 1, "y": -1}, "by-linear", "linear").error.values()) == {math.inf}


@pytest.mark.parametrize("how", ["cat", "linear", "svd"])
def test_one_adapter_alone_keeps_its_updates_and_modules(how, model):
    """The scale, which differs between modules and includes rsLoRA's √r, is moved into the factors."""
    lora.mix(model, {"c": 1}, how=how)
    assert all_close(updates(model, "mixed"), updates(model, "c"))
    assert ranks(model, "mixed") == ranks(model, "c")
    assert all(m.scaling["mixed"] == 1 for m in hosts(model).values() if "mixed" in m.config)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_new_adapter_acts_and_the_others_stay(dtype, model):
    model.astype(dtype)
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    made = lora.mix(model, {"a": 0.5, "c": 1}, "blend", "svd", 2)
    assert lora.active(model) == {"blend": 1}
    assert sorted(lora.adapters(model)) == ["a", "b", "blend", "c"]
    after = dict(model.named_parameters())
    assert {name: after[name].data.tobytes() for name in before} == before
    new = after.keys() - before.keys()
    assert len(new) == 2 * len(made.rank)
    assert {after[name].dtype for name in after} == {np.dtype(dtype)}
    assert {name for name, p in after.items() if p.requires_grad} == new


@pytest.mark.parametrize("how", ["cat", "svd"])
def test_saved_and_loaded_it_is_the_same(how, two_adapters, unit_llama, tmp_path):
    """The saved config selects exactly the mixed modules, each with its rank."""
    model, fresh = two_adapters(), unit_llama()
    made = lora.mix(model, {"a": 0.7, "b": 0.6}, "blend", how)
    lora.save_adapter(model, tmp_path, "blend")
    lora.load_adapter(fresh, tmp_path, "again")
    assert ranks(fresh, "again") == made.rank
    assert len(set(made.rank.values())) > 1
    np.testing.assert_array_equal(fresh(IDS).data, model(IDS).data)
    config, _ = lora.read_adapter(tmp_path)
    assert config.target_modules == ["down_proj", "q_proj", "up_proj", "v_proj"]  # as short as possible
    common = 2 if how == "cat" else 3  # the most frequent rank: for cat that of the MLP, for svd that of q and v
    assert config.r == config.lora_alpha == common
    assert sorted(config.rank_pattern.values()) == sorted(r for r in made.rank.values() if r != common)


def test_saved_and_loaded_where_the_last_names_would_mean_more(unit_llama, attach, tmp_path):
    """The mixture is on q of layers 0 and 2 and the MLP of layer 1, but not on q of layer 1 or any other MLP."""
    model, fresh = unit_llama(), unit_llama()
    attach(model, "x", target_modules=["q_proj"], layers_to_transform=[0])
    attach(model, "y", r=2, target_modules=["q_proj", "lm_head"], exclude_modules=r".*\.1\..*")
    attach(model, "z", r=4, target_modules=r".*\.1\.mlp\.(up|down)_proj")
    made = lora.mix(model, {"x": 1, "y": 2, "z": 3}, "blend")
    assert made.rank == {
        "model.layers.0.self_attn.q_proj": 5,
        "model.layers.2.self_attn.q_proj": 2,
        "model.layers.1.mlp.up_proj": 4,
        "model.layers.1.mlp.down_proj": 4,
        "lm_head": 2,
    }
    lora.save_adapter(model, tmp_path, "blend")
    lora.load_adapter(fresh, tmp_path)
    assert ranks(fresh, "default") == made.rank
    np.testing.assert_array_equal(fresh(IDS).data, model(IDS).data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {}}, r"expected a weight for each adapter, such as {'bard': 0.7, 'recipe': 0.3}, got {}"),
        ({"weights": "a"}, "expected a weight for each adapter, .* got 'a'"),
        ({"how": "ties"}, "expected `how` to be one of 'cat', 'linear', 'svd', got 'ties'"),
        ({"how": "cat", "r": 4}, "r can be set only for how='svd', got r=4 with how='cat'"),
        ({"how": "svd", "r": 0}, "expected the rank r to be a positive integer, got 0"),
        ({"how": "svd", "r": 2.5}, "expected the rank r to be a positive integer, got 2.5"),
        ({"weights": {"a": 1e308, "b": 1e308}, "how": "svd"}, "too large: the mixture at .* is not finite in float64"),
        ({"weights": {"a": 1, "bard": 1}}, "there is no adapter 'bard'; the model has a, b, c"),
        ({"weights": {"a": 1, "b": math.nan}}, "the strength of 'b' should be a finite number, got nan"),
        ({"how": "linear"}, r"'linear' requires adapters of equal rank, got {'a': 3, 'b': 2}; use 'cat' or 'svd'"),
        ({"adapter": "b"}, "already has an adapter 'b'"),
    ],
    ids=str,
)
def test_what_is_refused_changes_nothing(arguments, message, model, snapshot):
    before = snapshot(model)
    with pytest.raises(lora.AdapterError, match=message):
        lora.mix(model, **{"weights": {"a": 1, "b": 1}, **arguments})
    assert snapshot(model) == before


def test_what_is_said_of_a_mixture(two_adapters):
    model = two_adapters()
    cat = lora.mix(model, {"a": 1, "b": 1}, "both")
    with pytest.raises(dataclasses.FrozenInstanceError):
        cat.how = "svd"
    assert str(cat).startswith("both: cat, rank 2 to 5 in 12 modules; equal to the weighted sum")
    svd = lora.mix(model, {"a": 1, "b": 1}, "flat", "svd", 1)
    worst = max(svd.error, key=svd.error.get)
    assert str(svd) == (
        f"flat: svd, rank 1 in 12 modules; differs from the weighted sum by at most {svd.error[worst]:.2g} ‖ΔW‖, "
        f"{1 - svd.error[worst] ** 2:.1%} of the energy kept ({worst})"
    )


def test_a_mixture_too_large_for_the_models_own_type(two_adapters, snapshot):
    """1e39 is finite as a Python float, but infinite in float32."""
    model = two_adapters()
    before = snapshot(model)
    with pytest.raises(lora.AdapterError, match=r"too large: the mixture at .* is not finite in float32"):
        lora.mix(model, {"a": 1e39})
    assert snapshot(model) == before


def test_a_sum_of_zero_that_the_mixture_misses():
    found = lora.Mixture("none", "linear", {"q_proj": 2, "v_proj": 2}, {"q_proj": 0.1, "v_proj": math.inf})
    assert str(found) == "none: linear, rank 2 in 2 modules; the weighted sum is zero, but the mixture is not (v_proj)"
