"""Laws of differentiation: the autograd engine and the ops. The test functions are in `kit/functions.py`.

f*(g) denotes the pull-back of g: the gradient at the input of f when the gradient at its output is g.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.autograd import Tensor, gradients, ops
from minilora.backend import Array
from minilora.laws.kit.case import Case
from minilora.laws.kit.functions import (
    COMPOSED,
    LINEAR,
    ONE_OP_OF_TWO_INPUTS,
    OPERATIONS,
    Function,
    draw_arrays,
    draw_curve,
    draw_operations,
    leaf,
    plain_attention,
    pull,
)
from minilora.laws.kit.law import EXACT, law, rounding

GRIEWANK = "Griewank & Walther 2008, section 3.2"
SINGLE = rounding(1e-12, 5e-5)
"""A wider float32 bound: products and exponentials of a few values of unit scale can exceed 10, which costs a digit."""


@law("autograd", "f*(a g + h) = a f*(g) + f*(h)", GRIEWANK, bound=SINGLE)
def the_pull_back_is_linear_in_the_cotangent(case: Case) -> None:
    """The pull-back of an op is linear in the gradient of the op's output."""
    for function, arrays in draw_operations(case, OPERATIONS):
        leaves = [leaf(x) for x in arrays]
        out = function(*leaves)
        g, h, a = case.array("g", *out.shape), case.array("h", *out.shape), case.number("a")
        both, of_g, of_h = (gradients(out, leaves, np.asarray(cotangent)) for cotangent in (a * g + h, g, h))
        for i in range(len(leaves)):
            case.equal(f"the pull-back to input {i}", both[i], a * of_g[i] + of_h[i])


@law(
    "autograd",
    "⟨f*(g), d⟩ = ⟨g, Im f(x + i ε d)⟩ / ε",
    "Squire & Trapp 1998 (complex step)",
    bound=rounding(1e-12, 2e-4),
)
def the_gradient_is_the_slope_in_every_direction(case: Case) -> None:
    """An op's gradient predicts the change of its output in any direction, which a complex step measures."""
    for function, arrays in draw_operations(case, OPERATIONS):
        directions = [case.array(f"d{i}", *x.shape) for i, x in enumerate(arrays)]
        change = complex_step(function, arrays, directions)
        g = case.array("g", *change.shape)
        found = [np.sum(gx * d) for gx, d in zip(pull(function, arrays, g), directions, strict=True)]
        case.equal("the slope", np.sum(found), np.sum(g * change))


def complex_step(function: Function, arrays: list[Array], directions: list[Array]) -> Array:
    """df(x + t d)/dt at t = 0. With t = iε, terms in ε² are lost in rounding, and no subtraction cancels digits."""
    imaginary = np.complex64(1e-20j) if arrays[0].dtype == np.float32 else np.complex128(1e-20j)
    moved = function(*(Tensor(x + imaginary * d) for x, d in zip(arrays, directions, strict=True)))
    return moved.data.imag / 1e-20


@law("autograd", "∇(a f + b h) = a ∇f + b ∇h", "sum rule")
def the_gradient_of_a_sum_is_the_sum_of_the_gradients(case: Case) -> None:
    """Differentiation is linear in the function."""
    (x,), f, h = draw_arrays(case, "nm"), draw_curve(case, "f"), draw_curve(case, "h")
    a, b, g = case.number("a"), case.number("b"), case.array("g", *x.shape)
    (found,) = pull(lambda x: a * f(x) + b * h(x), [x], g)
    case.equal("the gradient", found, a * pull(f, [x], g)[0] + b * pull(h, [x], g)[0])


@law("autograd", "(f h)*(g) = f*(g h) + h*(g f)", "product rule")
def a_product_is_differentiated_one_factor_at_a_time(case: Case) -> None:
    """Each factor of a product gets the gradient times the other factor."""
    (x,), f, h = draw_arrays(case, "nm"), draw_curve(case, "f"), draw_curve(case, "h")
    g, f_x, h_x = case.array("g", *x.shape), f(Tensor(x)).data, h(Tensor(x)).data
    (found,) = pull(lambda x: f(x) * h(x), [x], g)
    case.equal("the gradient", found, pull(f, [x], g * h_x)[0] + pull(h, [x], g * f_x)[0])


@law("autograd", "(f ∘ h)*(g) = h*(f*(g))", f"chain rule; {GRIEWANK}")
def a_composition_is_pulled_back_from_the_outside_in(case: Case) -> None:
    """The gradient is first pulled back completely through f, and then through h."""
    (x,), f, h = draw_arrays(case, "nm"), draw_curve(case, "f"), draw_curve(case, "h")
    g, h_x = case.array("g", *x.shape), h(Tensor(x)).data
    (found,) = pull(lambda x: f(h(x)), [x], g)
    case.equal("the gradient", found, pull(h, [x], pull(f, [h_x], g)[0])[0])


@law("autograd", "⟨f(x), g⟩ = ⟨x, f*(g)⟩", "definition of the adjoint", bound=SINGLE)
def linear_ops_are_adjoint_to_their_pull_backs(case: Case) -> None:
    """The pull-back of a linear op is its transpose, whatever the input."""
    for function, (x, *held) in draw_operations(case, LINEAR):
        leaves = leaf(x), *map(Tensor, held)
        out = function(*leaves)
        g = case.array("g", *out.shape)
        (found,) = gradients(out, [leaves[0]], g)
        case.equal("⟨x, f*(g)⟩", np.sum(x * found), np.sum(out.data * g))


@law("autograd", "x (1, m) broadcast to (n, m):  f*(g) = Σₙ g", "adjoint of a copy")
def the_adjoint_of_broadcasting_is_summation(case: Case) -> None:
    """An entry that is broadcast to several positions gets the sum of the gradients at these positions."""
    lengths = [case.size(c, 1, 4) for c in "nmk"]
    first = case.choice("axes of x", [2, 1, 0, 3])
    shape = [1 if case.choice(f"axis {i} of x", [True, False]) else lengths[i] for i in range(3 - first, 3)]
    x, w, g = case.array("x", *shape), case.array("w", *lengths), case.array("g", *lengths)
    places = np.broadcast_to(np.arange(x.size).reshape(shape), lengths)  # the entry of x that each position uses
    (found,) = pull(lambda x: x * Tensor(w), [np.asarray(x)], g)
    want = np.bincount(places.ravel(), weights=(g * w).ravel(), minlength=x.size)
    case.equal("the gradient of x", found, want.reshape(shape))


@law("autograd", "y[p] = x[ids[p]]:  f*(g)[i] = Σ over ids[p] = i of g[p]", "adjoint of a copy")
def the_adjoint_of_a_gather_is_scatter_add(case: Case) -> None:
    """A row that is selected several times gets the sum of the gradients at its positions; an unused row gets zero."""
    op = case.choice("op", ["embedding", "index"])
    x = case.array("x", case.size("rows", 1, 4), case.size("m", 1, 3))
    ids = case.note("ids", case.rng.integers(0, len(x), case.size("positions", 1, 6)))
    g = case.array("g", len(ids), x.shape[1])
    (found,) = pull(lambda x: ops.embedding(x, ids) if op == "embedding" else x[ids], [x], g)
    one_hot = (ids[:, None] == np.arange(len(x))).astype(x.dtype)
    case.equal("the gradient of x", found, one_hot.T @ g)


@law("autograd", "h(x) = f(x, x):  ∇h = ∂₁f + ∂₂f", f"chain rule; {GRIEWANK}")
def what_is_used_twice_gets_both_gradients(case: Case) -> None:
    """A tensor that is both inputs of an op gets the sum of the gradients of the two inputs."""
    function, _ = OPERATIONS[case.choice("op", ["mul", "linear", "silu_gate", "div", "concatenate", "sub"])]
    (x,) = draw_arrays(case, "nm")
    g = case.array("g", *function(Tensor(x), Tensor(x)).shape)
    (found,) = pull(lambda x: function(x, x), [x], g)
    case.equal("the gradient of x", found, np.sum(pull(function, [x, x], g), axis=0))


@law("autograd", "x frozen  ⇒  no edge, no ∂L/∂x", "Hu et al. 2021 (LoRA), section 4.2", bound=EXACT)
def a_frozen_input_costs_no_gradient(case: Case) -> None:
    """The gradient rule of a frozen input is never called, and the gradient of the other input is unchanged."""
    frozen = case.choice("frozen input", [0, 1])
    for function, arrays in draw_operations(case, ONE_OP_OF_TWO_INPUTS):
        inputs = [Tensor(x, requires_grad=i != frozen) for i, x in enumerate(arrays)]
        out, called = function(*inputs), list[int]()
        assert out.node is not None
        out.node.rules = tuple(noting(i, rule, called) for i, rule in enumerate(list(out.rules)))  # type: ignore[arg-type]
        g = case.array("g", *out.shape)
        out.backward(g)
        case.true(f"the rule of input {frozen}, which is frozen, was called", frozen not in called)
        case.true(f"input {frozen}, which is frozen, has a gradient", inputs[frozen].grad is None)
        case.same("the gradient of the other input", inputs[1 - frozen].grad, pull(function, arrays, g)[1 - frozen])


def noting(i: int, rule: Callable[[Array], Array], called: list[int]) -> Callable[[Array], Array]:
    """Wrap the rule of input i so that it appends i to `called`."""

    def noted(g: Array) -> Array:
        called.append(i)
        return rule(g)

    return noted


@law("autograd", "the fused op = its composition, in value and f*(g)", "chain rule", bound=SINGLE)
def fused_ops_equal_their_compositions(case: Case) -> None:
    """A fused op with a hand-derived gradient equals the composition of its steps."""
    for fused, arrays in draw_operations(case, {name: OPERATIONS[name] for name in COMPOSED}):
        compare(case, fused, COMPOSED[case.drawn["op"]], arrays)


@law("autograd", "y = softmax(q kᵀ / √D + mask) v", "Vaswani et al. 2017, eq. 1; Ainslie et al. 2023", bound=SINGLE)
def causal_attention_equals_its_composition(case: Case) -> None:
    """Attention in blocks of rows with grouped heads equals attention with the full matrix of masked scores."""
    groups, serves = case.size("key heads", 1, 2), case.size("query heads for each", 1, 2)
    time, past, width = case.choice("T", [1, 2, 3, 5, 66]), case.choice("past", [0, 1, 3]), case.size("D", 1, 3)
    q = case.array("q", 1, groups * serves, time, width)
    k, v = (case.array(name, 1, groups, past + time, width) for name in "kv")
    compare(case, lambda q, k, v: ops.causal_attention(q, k, v), plain_attention, [q, k, v])


def compare(case: Case, fused: Function, plain: Function, arrays: list[Array]) -> None:
    """Check that two functions have the same value and the same pull-back."""
    ours, theirs = fused(*map(Tensor, arrays)).data, plain(*map(Tensor, arrays)).data
    case.equal("the value", ours, theirs)
    g = case.array("g", *ours.shape)
    for i, (found, want) in enumerate(zip(pull(fused, arrays, g), pull(plain, arrays, g), strict=True)):
        case.equal(f"the gradient of input {i}", found, want)


@law("autograd", "f*(g) = f*(g), computed twice", "a pure function", bound=EXACT)
def taking_gradients_changes_nothing(case: Case) -> None:
    """Gradients computed again are identical, even if the first ones are overwritten: nothing is stored or modified."""
    for function, arrays in draw_operations(case, OPERATIONS):
        leaves = [leaf(x) for x in arrays]
        out = function(*leaves)
        g = np.asarray(case.array("g", *out.shape))
        value, cotangent = out.data.copy(), g.copy()
        first = gradients(out, leaves, g)
        kept = [found.copy() for found in first]
        for found in first:
            found.fill(np.nan)
        case.same("the cotangent", g, cotangent)
        case.same("the output", out.data, value)
        for i, found in enumerate(gradients(out, leaves, g)):
            case.same(f"input {i}", leaves[i].data, arrays[i])
            case.same(f"the gradient of input {i}", found, kept[i])
            case.true(f"a gradient was stored in input {i}", leaves[i].grad is None)


@law("autograd", "x.grad ← x.grad + f*(g)", "PyTorch, Tensor.backward", bound=EXACT)
def backward_adds_to_the_gradient_that_is_there(case: Case) -> None:
    """Calling backward for two losses gives the gradient of their sum, which makes gradient accumulation possible."""
    (x,), f, h = draw_arrays(case, "nm"), draw_curve(case, "f"), draw_curve(case, "h")
    g_f, g_h, used = case.array("g_f", *x.shape), case.array("g_h", *x.shape), leaf(x)
    f(used).backward(g_f)
    h(used).backward(g_h)
    case.same("x.grad", used.grad, pull(f, [x], g_f)[0] + pull(h, [x], g_h)[0])
