"""The engine: reverse-mode differentiation as one loop.

The chain rule for y = f(x): a gradient arriving at y, pulled back through f, is a gradient arriving at x. The loop
visits the places of a graph, its nodes and leaves, from the youngest to the oldest. What an op made is always younger
than what it was made from, so by the time it is visited, every gradient that will ever arrive there has arrived.

The engine alone knows about summing over broadcast axes, accumulating and releasing; an op's rules know nothing
of these. What to read next: `ops/`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from minilora.backend import Array, like


class Differentiable(Protocol):
    """What the engine asks of a Tensor (`tensor.py`): its numbers, and its place in the graph."""

    data: Array
    grad: Array | None
    requires_grad: bool
    birth: int

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def size(self) -> int: ...
    @property
    def place(self) -> Place: ...
    @property
    def edges(self) -> tuple[tuple[int, Place], ...]: ...
    @property
    def rules(self) -> tuple[Any, ...] | JointRule: ...
    @property
    def released(self) -> bool: ...


Place: TypeAlias = "Node | Differentiable"
"""Where gradients arrive: the node of what an op made, or a leaf."""

JointRule: TypeAlias = "Callable[[Array], tuple[Array, ...]]"

_births = itertools.count(1)


class Node:
    """What the graph keeps of an op's output: how it was made, its shape and dtype, but not its array.

    An array that no rule needs is thus freed as soon as the computation lets go of its tensor: in a training step, a
    quarter of what would otherwise wait for the backward pass.

    Attributes
    ----------
    edges : for each input that needs a gradient, the pair (its position among the inputs, its place in the graph)
    rules : the pull-back of each input, or one function that does all at once
    birth : a count; an output is born after its inputs
    released : whether `backward` has been here and freed what was kept
    """

    __slots__ = ("__weakref__", "birth", "dtype", "edges", "released", "rules", "shape")

    def __init__(self, output: Array, edges: tuple[tuple[int, Place], ...], rules: tuple[Any, ...] | JointRule) -> None:
        self.shape, self.dtype, self.edges, self.rules = output.shape, output.dtype, edges, rules
        self.birth, self.released = next(_births), False


def gradients(
    output: Differentiable, wrt: Sequence[Differentiable], cotangent: Array | None = None, release: bool = False
) -> list[Array]:
    """d(output)/d(x) for each x in `wrt`, as arrays of x's shape and dtype; zeros where nothing connects them.

    It stores nothing in the tensors, so threads may call it over shared parameters.

    Parameters
    ----------
    output : the Tensor to differentiate; a scalar unless `cotangent` is given
    wrt : a list of leaves or intermediate tensors, each with requires_grad=True
    cotangent : the gradient arriving at `output`, of its shape, on any device; 1 for a scalar
    release : free the graph on the way, as `backward` does, so that its arrays make room for the gradients
    """
    if hasattr(wrt, "edges"):  # iterating over one tensor would make new ones, which nothing depends on
        raise TypeError("gradients expects a list of tensors, got one tensor; write gradients(output, [x])")
    if not all(x.requires_grad for x in wrt):
        raise ValueError("gradients expects tensors with requires_grad=True; a frozen one has no edge to follow")
    places = [id(x.place) for x in wrt]
    arrived = _run(output, _ancestors(output), cotangent, set(places), release)
    # One array can stand for several gradients (x + y hands the same one to both); a copy is safe to change.
    return [arrived[p].copy() if p in arrived else np.zeros_like(x.data) for p, x in zip(places, wrt, strict=True)]


def backward(output: Differentiable, cotangent: Array | None = None) -> None:
    """Add the gradient of `output` to `.grad` of every leaf it depends on, and free the graph on the way.

    Raises RuntimeError when part of the graph was freed by an earlier `backward`.
    """
    order = _ancestors(output)
    leaves = [x for x in order if not isinstance(x, Node)]
    arrived = _run(output, order, cotangent, keep={id(x) for x in leaves}, release=True)
    for leaf in leaves:
        if leaf.grad is None:
            leaf.grad = arrived[id(leaf)].copy()
        else:
            leaf.grad += arrived[id(leaf)]


def _run(
    output: Differentiable, order: list[Place], cotangent: Any, keep: set[int], release: bool = False
) -> dict[int, Array]:
    """The loop. Returns the gradients that arrived at the places whose ids are in `keep`.

    With `release`, what the rules hold is freed as soon as they have been called.
    """
    arrived = {id(output.place): _seed(output, cotangent)}
    owned: set[int] = set()  # sums that the engine made itself and may therefore add to in place
    for place in reversed(order):
        key = id(place)
        g = arrived[key] if key in keep else arrived.pop(key)
        for x, gx in _pull_back(place, g):
            gx = _unbroadcast(gx, x)
            if id(x) not in arrived:
                arrived[id(x)] = gx
            elif id(x) in owned:
                arrived[id(x)] += gx
            else:
                arrived[id(x)] = _unbroadcast(arrived[id(x)] + gx, x)
                owned.add(id(x))
        if release and isinstance(place, Node):
            place.edges, place.rules, place.released = (), (), True
    return arrived


def _pull_back(place: Place, g: Array) -> list[tuple[Place, Array]]:
    """Each input that needs a gradient of what was made at `place`, with what arrives there."""
    if callable(place.rules):
        pulled = place.rules(g)
        return [(x, pulled[i]) for i, x in place.edges]
    return [(x, place.rules[i](g)) for i, x in place.edges]


def _ancestors(output: Differentiable) -> list[Place]:
    """Every place that a gradient of `output` reaches, oldest first. A loop, so depth is no limit."""
    if not output.requires_grad and not output.released:
        raise ValueError("expected a tensor that depends on something with requires_grad=True; this one does not")
    found = {id(output.place): output.place}
    todo = [output.place]
    while todo:
        place = todo.pop()
        if place.released:
            raise RuntimeError(
                "this graph was freed by an earlier backward(); compute the loss again, or use gradients(loss, ...), "
                "which keeps the graph unless told to release it"
            )
        for _, x in place.edges:
            if id(x) not in found:
                found[id(x)] = x
                todo.append(x)
    return sorted(found.values(), key=lambda x: x.birth)


def _seed(output: Differentiable, cotangent: Any) -> Array:
    """The gradient that the loop starts with."""
    if cotangent is None:
        if output.size != 1:
            raise ValueError(
                f"expected a scalar to differentiate, got shape {output.shape}; pass a cotangent of that shape"
            )
        return np.ones_like(output.data)
    if getattr(cotangent, "requires_grad", False):
        raise ValueError("gradients of gradients are not offered: the fused ops have no second derivative")
    if hasattr(cotangent, "edges"):  # a Tensor
        cotangent = cotangent.data
    elif isinstance(cotangent, np.generic) or not hasattr(cotangent, "dtype"):
        cotangent = np.asarray(cotangent)
    if cotangent.shape != output.shape:
        raise ValueError(f"expected a cotangent of shape {output.shape}, the output's, got {cotangent.shape}")
    return like(cotangent.astype(output.dtype, copy=False), output.data)


def _unbroadcast(g: Array, place: Place) -> Array:
    """Sum `g` over the axes along which `place` was broadcast, and give it its dtype."""
    if g.shape != place.shape:
        front = g.ndim - len(place.shape)  # broadcasting puts missing axes in front ...
        if front < 0 or any(n not in (1, m) for n, m in zip(place.shape, g.shape[front:], strict=True)):
            raise ValueError(f"a rule returned a gradient of shape {g.shape} for an input of shape {place.shape}")
        stretched = [front + i for i, n in enumerate(place.shape) if n == 1]  # ... and repeats those of length 1
        g = g.sum(axis=(*range(front), *stretched)).reshape(place.shape)
    if isinstance(g, np.generic):  # NumPy turns 0-d results into scalars
        g = np.asarray(g)
    return g if g.dtype == place.dtype else g.astype(place.dtype)
