"""Laws of every adaptation method: properties of adding any update to a frozen Linear layer."""

from __future__ import annotations

import dataclasses
import tempfile
from typing import Any

import numpy as np

from minilora import lora
from minilora.adapters.attach import hosts, inject
from minilora.adapters.host import AdaptedLinear
from minilora.adapters.method import Method, methods
from minilora.autograd import Tensor, gradients
from minilora.autograd.tensor import holding
from minilora.backend import Array
from minilora.laws.autograd import complex_step
from minilora.laws.kit.case import Case
from minilora.laws.kit.implementations.own import Holder
from minilora.laws.kit.law import EXACT, law, rounding
from minilora.laws.kit.layer import draw_inputs, draw_weight
from minilora.nn import Linear
from minilora.nn.choice import choosing, resolve

SEAM = "h = W x + strength · u(x), minilora/adapters/update.py"
NAMES = sorted(methods(), key=lambda name: name != "lora")  # the simplest first
SUMS = rounding(1e-11, 1e-4)
"""The bound for methods that divide by row norms or multiply several factors."""


def draw_method(case: Case, name: str = "") -> Method:
    """Draw a method with a small rank and a random α, if it has them, for the layer of a `Holder`."""
    cls = methods()[case.choice(f"method{name}", NAMES)]
    drawn: dict[str, Any] = {"r": case.size(f"r{name}", 1, 3), "lora_alpha": case.number(f"alpha{name}", positive=True)}
    known = {field.name for field in dataclasses.fields(cls)}
    return cls(target_modules=["linear"], **{key: value for key, value in drawn.items() if key in known})


def draw_adapted(case: Case, *names: str) -> tuple[Holder, AdaptedLinear]:
    """Draw a model with one Linear layer and these adapters, each of a random method, with tensors of unit scale."""
    model = Holder(draw_weight(case))
    for name in names:
        inject(model, draw_method(case, f" of {name}"), name, rng=case.rng)
        for part, tensor in hosts(model)["linear"].updates[name].tensors.items():
            tensor.data[...] = case.array(f"{part} of {name}", *tensor.shape)
    return model, hosts(model)["linear"]


def outputs(layer: Linear, x: Array) -> Array:
    return layer(Tensor(x)).data


@law("methods", "u₀(x) = 0", SEAM, bound=SUMS)
def before_training_no_method_changes_anything(case: Case) -> None:
    """A fresh adapter of any method does not change the output."""
    W = draw_weight(case)
    model, x = Holder(W), draw_inputs(case, W)
    inject(model, draw_method(case), rng=case.rng)
    case.equal("h", outputs(model.linear, x), x @ W.T)


@law("methods", "h(λ) - W x = λ u(x)", SEAM, bound=SUMS)
def every_update_is_linear_in_its_strength(case: Case) -> None:
    """The update is proportional to the strength: 0 gives the base, 1 the adapter as trained."""
    model, layer = draw_adapted(case, "a")
    x, strength = draw_inputs(case, layer.weight.data), case.number("strength")
    full = outputs(layer, x) - x @ layer.weight.data.T
    lora.set_active(model, {"a": strength})
    case.equal("update", outputs(layer, x) - x @ layer.weight.data.T, strength * full)


@law("methods", "h = W x + Σ λᵢ uᵢ(x)", SEAM, bound=SUMS)
def active_updates_of_any_methods_add_up(case: Case) -> None:
    """The updates add up: each depends only on the layer's input and W x, not on the other updates."""
    model, layer = draw_adapted(case, "a", "b")
    x, strengths = draw_inputs(case, layer.weight.data), {name: case.number(f"strength of {name}") for name in "ab"}
    base, want = x @ layer.weight.data.T, x @ layer.weight.data.T
    for name, strength in strengths.items():
        lora.set_active(model, name)
        want = want + strength * (outputs(layer, x) - base)
    lora.set_active(model, strengths)
    case.equal("h", outputs(layer, x), want)


@law("methods", "x (W + Σ λᵢ ΔWᵢ)ᵀ = h,  unmerge ∘ merge = identity", SEAM, bound=SUMS)
def merging_any_methods_changes_no_output(case: Case) -> None:
    """Updates with a matrix ΔW can be merged, one or several at a time, and unmerged bit for bit."""
    model, layer = draw_adapted(case, "a", "b")
    lora.set_active(model, {name: case.number(f"strength of {name}") for name in "ab"})
    x, state = draw_inputs(case, layer.weight.data), {name: a.copy() for name, a in model.state_dict().items()}
    apart = outputs(layer, x)
    lora.merge(model)
    case.equal("h after merging", outputs(layer, x), apart)
    for name, array in model.state_dict().items():
        case.same(f"{name} of the merged model", array, state[name])
    lora.unmerge(model)
    case.same("h after unmerging", outputs(layer, x), apart)


@law("methods", "h[i] = W x[i] + Σ λ u(x[i]), over row i's adapters", SEAM, bound=SUMS)
def rows_with_any_methods_equal_single_runs(case: Case) -> None:
    """In a batch that mixes methods and rows without adapters, each row has the same output as if it were run alone."""
    model, layer = draw_adapted(case, "a", "b", "c")
    choices = [None, "a", {"b": case.number("strength of b"), "c": 1.0}, "c", {"a": 2.0, "b": -1.0}]
    order = case.rng.integers(0, len(choices), case.size("batch", 1, 5))
    rows = case.note("rows", [choices[i] for i in order])
    x = case.array("x", len(rows), case.size("tokens", 1, 2), layer.in_features)
    with choosing(resolve(model, rows, len(rows))):
        batched = outputs(layer, x)
    for i, choice in enumerate(rows):
        lora.set_active(model, choice)
        case.equal(f"row {i} ({choice or 'base'})", batched[i], outputs(layer, x[i]))


@law("methods", "⟨∇u, d⟩ = Im u(θ + i ε d) / ε", "Squire & Trapp 1998 (complex step)", bound=SUMS)
def the_gradients_of_any_method_are_its_slopes(case: Case) -> None:
    """Gradients give the slope in every direction, with the values passed to stop_gradient held constant."""
    layer = draw_adapted(case, "a")[1]
    update, config = layer.updates["a"], layer.config["a"]
    names, tensors = zip(*((n, t) for n, t in update.tensors.items() if t.requires_grad), strict=True)
    x, g = draw_inputs(case, layer.weight.data), case.array("g", len(layer.weight.data))
    held: list[Any] = []

    def note(value: Any) -> Any:
        held.append(value)
        return value

    with holding(note):
        found = gradients(layer(Tensor(x)), tensors, np.broadcast_to(g, (len(x), len(g))))

    def moved(*parts: Tensor) -> Tensor:
        other, constants = AdaptedLinear(layer.base), iter(held)
        other.attach(
            "a", config.make_update("linear", {**update.tensors, **dict(zip(names, parts, strict=True))}), config
        )
        other.activate({"a": 1.0})
        with holding(lambda _: next(constants)):
            return other(Tensor(x))

    directions = [
        case.array(f"direction of {name}", *tensor.shape) for name, tensor in zip(names, tensors, strict=True)
    ]
    slope = np.sum(g * complex_step(moved, [tensor.data for tensor in tensors], directions))
    case.equal("the slope", np.sum([np.sum(f * d) for f, d in zip(found, directions, strict=True)]), slope)


@law("methods", "load(save(adapter)) = adapter", "file format: tensors are stored unchanged", bound=EXACT)
def files_of_any_method_keep_every_bit(case: Case) -> None:
    """An adapter that is saved and loaded onto another copy of the base has identical bits, settings and output."""
    model, layer = draw_adapted(case, "a")
    for tensor in layer.updates["a"].tensors.values():
        tensor.data[...] = tensor.data.astype(np.float32)  # values that the file stores exactly
    other, x = Holder(layer.base.weight.data), draw_inputs(case, layer.weight.data)
    with tempfile.TemporaryDirectory() as folder:
        lora.save_adapter(model, folder, "a")
        lora.load_adapter(other, folder, "a")
    case.true("the settings differ", hosts(other)["linear"].config["a"] == layer.config["a"])
    for name, array in model.state_dict().items():
        case.same(name, other.state_dict()[name], array)
    case.same("h", outputs(other.linear, x), outputs(layer, x))
