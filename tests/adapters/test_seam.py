"""Extension points for new methods: tensors shared by all Linears, updates without a matrix, packed base weights."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from minilora import gradients, lora
from minilora.adapters import method as registry
from minilora.adapters.attach import hosts, replace
from minilora.adapters.method import Method
from minilora.adapters.settings import check_rank, setting
from minilora.adapters.update import Factors, Update
from minilora.autograd import Tensor, ops
from minilora.generation import Sampler, generate
from minilora.lora.facts import module_facts
from minilora.nn import Linear
from tests.unit_scale import unit_scale_llama

IDS = np.random.default_rng(3).integers(29, size=(3, 9))


class SharedUpdate(Update):
    """u(x) = b ⊙ B A x. Each Linear has its own b. All share one frozen pair A, B, sliced to the size of the Linear."""

    frozen = frozenset({"A", "B"})

    def factors(self, base):
        return Factors(self.A[:, : base.in_features], self.B[: base.out_features] * self.b.reshape(-1, 1), 1.0)


@dataclass(frozen=True)
class SharedConfig(Method):
    r: int = setting(3, check_rank)
    name: ClassVar = "shared"
    label: ClassVar = "shared"
    recognized_by: ClassVar = {"peft_type": "SHARED"}

    def shapes(self, path):
        return {"b": ("out",)} if path else {"A": (self.r, "in"), "B": ("out", self.r)}

    def draw_shared(self, bases, rng):
        n_in, n_out = (max(getattr(b, side) for b in bases.values()) for side in ("in_features", "out_features"))
        return {"A": rng.standard_normal((self.r, n_in)), "B": rng.standard_normal((n_out, self.r))}

    def draw(self, path, base, rng):
        return {"b": np.zeros(base.out_features)}

    def make_update(self, path, tensors):
        return SharedUpdate(tensors)


class GatedUpdate(Update):
    """u(x) = tanh(G x), which is not linear, so there is no ΔW."""

    def apply(self, x, h, base):
        return ops.tanh(ops.linear(x, self.G))


@dataclass(frozen=True)
class GatedConfig(SharedConfig):
    name: ClassVar = "gated"
    label: ClassVar = "gated"
    recognized_by: ClassVar = {"peft_type": "GATED"}

    def shapes(self, path):
        return {"G": ("out", "in")} if path else {}

    def draw_shared(self, bases, rng):
        return {}

    def draw(self, path, base, rng):
        return {"G": rng.standard_normal((base.out_features, base.in_features))}

    def make_update(self, path, tensors):
        return GatedUpdate(tensors)


class PackedLinear(Linear):
    """A Linear that stores W as int8 values and one scale."""

    def __init__(self, weight):
        self.scale = Tensor(np.asarray(np.abs(weight.data).max() / 127))
        self.packed = Tensor(np.round(weight.data / self.scale.data).astype(np.int8))

    in_features = property(lambda self: self.packed.shape[1])
    out_features = property(lambda self: self.packed.shape[0])

    def forward(self, x):
        return ops.linear(x, self.dense())

    def dense(self):
        return Tensor(self.packed.data * self.scale.data)


@pytest.fixture
def model(unit_llama, monkeypatch):
    """A model with two adapters: `one`, with shared tensors, which is active, and `two`, which is gated."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry.methods()))
    for cls in (SharedConfig, GatedConfig):
        registry.method(cls)
    model, rng = unit_llama(), np.random.default_rng(0)
    lora.inject(model, GatedConfig(), "two", rng=rng)
    lora.inject(model, SharedConfig(target_modules="all-linear"), "one", rng=rng)
    for host in hosts(model).values():
        host.b["one"].data[...] = rng.standard_normal(host.out_features)
    return model


def test_shared_tensors_are_one_parameter_and_stay_frozen(model):
    shared = {id(host.A["one"]) for host in hosts(model).values()}
    assert len(shared) == 1
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{path}.b.one" for path in hosts(model)}
    assert lora.report(model).trainable == sum(host.out_features for host in hosts(model).values())
    assert all(np.abs(g).max() > 0 for g in gradients(model(IDS).mean(), model.parameters(trainable=True)))


def test_shared_tensors_are_one_key_in_a_file(model, unit_llama, tmp_path):
    lora.save_adapter(model, tmp_path, "one")
    config, tensors = lora.read_adapter(tmp_path)
    assert tensors.keys() == {"base_model.A", "base_model.B"} | {f"{path}.b" for path in hosts(model)}
    other = unit_llama()
    lora.load_adapter(other, tmp_path)
    np.testing.assert_array_equal(other(IDS).data, model(IDS).data)
    weights = {path: host.weight.data for path, host in hosts(other).items()}
    for fact in module_facts(config, tensors, weights):
        delta = hosts(other)[fact.path].delta("default")
        assert fact.norm == pytest.approx(np.linalg.norm(delta), rel=1e-5)
    assert {fact.norm for fact in module_facts(config, tensors, {})} == {None}  # ΔW depends on the base's size


def test_an_update_without_a_matrix_is_not_merged(model, snapshot):
    lora.set_active(model, {"one": 1, "two": 0.5})
    before = snapshot(model)
    with pytest.raises(lora.AdapterError, match="'two' cannot be merged: its update is not linear"):
        lora.merge(model)
    with pytest.raises(lora.AdapterError, match=r"'two' cannot be mixed: at .* no factors"):
        lora.mix(model, {"one": 1, "two": 0.5})
    assert snapshot(model) == before


def test_rows_and_single_tokens_with_methods_of_all_kinds(model):
    model.astype(np.float64)
    choices = ["one", {"one": -1, "two": 0.5}, "two"]
    logits = model(IDS, adapters=choices).data
    written = generate(model, list(IDS), 8, Sampler(0), adapters=choices)
    for i, choice in enumerate(choices):
        lora.set_active(model, choice)
        alone = model(IDS[i : i + 1]).data
        assert np.abs(logits[i] - alone[0]).max() < 1e-12 * np.abs(alone).max()
        np.testing.assert_array_equal(written[i], generate(model, [IDS[i]], 8, Sampler(0))[0])


def test_a_base_that_stores_its_weight_in_another_form():
    model = unit_scale_llama(0, vocab_size=29, hidden_size=12, num_hidden_layers=2)
    for path, module in list(model.named_modules()):
        if isinstance(module, Linear) and path != "lm_head":
            replace(model, path, PackedLinear(module.weight))
    base = model(IDS).data
    lora.inject(model, lora.LoraConfig(target_modules="all-linear"), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(model(IDS).data, base)
    for host in hosts(model).values():
        host.lora_B["default"].data[...] = 0.3
    apart = model(IDS).data
    lora.merge(model)
    assert np.abs(model(IDS).data - apart).max() < 1e-5 * np.abs(apart).max()
    lora.unmerge(model)
    assert {host.packed.dtype for host in [h.base for h in hosts(model).values()]} == {np.dtype(np.int8)}
    model.astype(np.float64)
    assert {h.base.packed.dtype for h in hosts(model).values()} == {np.dtype(np.int8)}
    assert np.abs(model(IDS).data - apart).max() < 1e-5 * np.abs(apart).max()


def test_a_linear_whose_matrix_is_not_known_is_not_merged(unit_llama):
    class Twice(Linear):
        def forward(self, x):
            return super().forward(x) * 2

    model = unit_llama()
    path = "model.layers.0.self_attn.q_proj"
    replace(model, path, Twice(model.model.layers[0].self_attn.q_proj.weight))
    base = model(IDS).data
    lora.inject(model, lora.LoraConfig(target_modules=[path]), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(model(IDS).data, base)
    with pytest.raises(lora.AdapterError, match=r"cannot merge into a Twice: .* override dense\(\)"):
        lora.merge(model)


def test_a_method_of_a_taken_name_is_refused():
    class Other(SharedConfig):
        name: ClassVar = "lora"

    with pytest.raises(ValueError, match="the method name 'lora' is taken by LoraConfig"):
        registry.method(Other)
