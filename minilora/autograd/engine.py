"""The autograd engine: reverse-mode differentiation as one loop.

The chain rule for y = f(x): the gradient with respect to y, pulled back through f, contributes to the gradient with
respect to x. The loop visits the nodes and leaves of the graph in reverse order of creation. The output of an op is
created after its inputs, so the gradient at a node is complete by the time the loop visits it.

Only the engine sums gradients over broadcast axes, accumulates them and frees the graph. The rules of an op do none of
this. Read `ops/` next.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from minilora.backend import Array, like


class Differentiable(Protocol):
    """The interface that the engine requires of a Tensor (`tensor.py`): its array, and its vertex in the graph."""

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
    def vertex(self) -> Vertex: ...
    @property
    def edges(self) -> tuple[tuple[int, Vertex], ...]: ...
    @property
    def rules(self) -> tuple[Any, ...] | JointRule: ...
    @property
    def released(self) -> bool: ...


Vertex: TypeAlias = "Node | Differentiable"
"""A vertex of the graph, where gradients accumulate: the node of an op's output, or a leaf tensor."""

JointRule: TypeAlias = "Callable[[Array], tuple[Array, ...]]"

_births = itertools.count(1)


class Node:
    """The graph's record of an op's output: how it was computed, its shape and dtype, but not its array.

    An array that no rule needs is therefore freed together with its tensor. In a training step, this saves a quarter of
    the memory that would otherwise be held until the backward pass.

    Attributes
    ----------
    edges : for each input that needs a gradient, the pair (its index among the inputs, its vertex in the graph)
    rules : one pull-back function per input, or a single function that returns the gradients of all inputs
    birth : the creation order; an output has a larger number than its inputs
    released : whether a backward pass has freed the edges and rules
    """

    __slots__ = ("__weakref__", "birth", "dtype", "edges", "released", "rules", "shape")

    def __init__(
        self, output: Array, edges: tuple[tuple[int, Vertex], ...], rules: tuple[Any, ...] | JointRule
    ) -> None:
        self.shape, self.dtype, self.edges, self.rules = output.shape, output.dtype, edges, rules
        self.birth, self.released = next(_births), False


def gradients(
    output: Differentiable, wrt: Sequence[Differentiable], cotangent: Array | None = None, release: bool = False
) -> list[Array]:
    """Return d(output)/d(x) for each x in `wrt`, with the shape and dtype of x; zeros if output does not depend on x.

    Stores nothing in the tensors, so several threads may call it with shared parameters.

    Parameters
    ----------
    output : the Tensor to differentiate; a scalar unless `cotangent` is given
    wrt : a list of leaves or intermediate tensors, each with requires_grad=True
    cotangent : the gradient with respect to `output`, of the same shape, on any device; default 1, for a scalar output
    release : free the graph during the pass, as `backward` does, to make room for the gradients
    """
    if hasattr(wrt, "edges"):  # iterating over one tensor would yield new tensors that `output` does not depend on
        raise TypeError("gradients() expects a list of tensors, got one tensor; write gradients(output, [x])")
    if not all(x.requires_grad for x in wrt):
        raise ValueError(
            "gradients() expects tensors with requires_grad=True; a frozen tensor is not part of the graph"
        )
    vertices = [id(x.vertex) for x in wrt]
    arrived = _run(output, _ancestors(output), cotangent, set(vertices), release)
    # Several gradients can share one array (x + y passes the same array to both inputs); a copy is safe to modify.
    return [arrived[p].copy() if p in arrived else np.zeros_like(x.data) for p, x in zip(vertices, wrt, strict=True)]


def backward(output: Differentiable, cotangent: Array | None = None) -> None:
    """Add the gradient of `output` to the `.grad` of every leaf it depends on, and free the graph.

    Raises RuntimeError if part of the graph was freed by an earlier backward pass.
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
    output: Differentiable, order: list[Vertex], cotangent: Any, keep: set[int], release: bool = False
) -> dict[int, Array]:
    """Run the backward loop. Return the gradients of the vertices whose ids are in `keep`.

    With `release`, the arrays held by the rules of a node are freed as soon as the rules have been called.
    """
    arrived = {id(output.vertex): _seed(output, cotangent)}
    owned: set[int] = set()  # sums allocated by the engine, which it may update in place
    for vertex in reversed(order):
        key = id(vertex)
        g = arrived[key] if key in keep else arrived.pop(key)
        for x, gx in _pull_back(vertex, g):
            gx = _unbroadcast(gx, x)
            if id(x) not in arrived:
                arrived[id(x)] = gx
            elif id(x) in owned:
                arrived[id(x)] += gx
            else:
                arrived[id(x)] = _unbroadcast(arrived[id(x)] + gx, x)
                owned.add(id(x))
        if release and isinstance(vertex, Node):
            vertex.edges, vertex.rules, vertex.released = (), (), True
    return arrived


def _pull_back(vertex: Vertex, g: Array) -> list[tuple[Vertex, Array]]:
    """Apply the rules of `vertex` to its gradient g. Return (input, gradient) for each input that needs a gradient."""
    if callable(vertex.rules):
        pulled = vertex.rules(g)
        return [(x, pulled[i]) for i, x in vertex.edges]
    return [(x, vertex.rules[i](g)) for i, x in vertex.edges]


def _ancestors(output: Differentiable) -> list[Vertex]:
    """Return all vertices that `output` depends on, oldest first. Iterative, so the graph can have any depth."""
    if not output.requires_grad and not output.released:
        raise ValueError("expected a tensor that depends on a tensor with requires_grad=True; this one does not")
    found = {id(output.vertex): output.vertex}
    todo = [output.vertex]
    while todo:
        vertex = todo.pop()
        if vertex.released:
            raise RuntimeError(
                "this graph was freed by an earlier backward(); recompute the loss, or use gradients(loss, ...), "
                "which keeps the graph unless release=True"
            )
        for _, x in vertex.edges:
            if id(x) not in found:
                found[id(x)] = x
                todo.append(x)
    return sorted(found.values(), key=lambda x: x.birth)


def _seed(output: Differentiable, cotangent: Any) -> Array:
    """Return the gradient with respect to `output`, from which the loop starts."""
    if cotangent is None:
        if output.size != 1:
            raise ValueError(
                f"expected a scalar to differentiate, got shape {output.shape}; pass a cotangent of that shape"
            )
        return np.ones_like(output.data)
    if getattr(cotangent, "requires_grad", False):
        raise ValueError("second derivatives are not supported: the fused ops do not define them")
    if hasattr(cotangent, "edges"):  # a Tensor
        cotangent = cotangent.data
    elif isinstance(cotangent, np.generic) or not hasattr(cotangent, "dtype"):
        cotangent = np.asarray(cotangent)
    if cotangent.shape != output.shape:
        raise ValueError(f"expected a cotangent of the output's shape {output.shape}, got {cotangent.shape}")
    return like(cotangent.astype(output.dtype, copy=False), output.data)


def _unbroadcast(g: Array, vertex: Vertex) -> Array:
    """Sum `g` over the axes along which `vertex` was broadcast, and convert it to the dtype of `vertex`."""
    if g.shape != vertex.shape:
        front = g.ndim - len(vertex.shape)  # broadcasting prepends missing axes ...
        if front < 0 or any(n not in (1, m) for n, m in zip(vertex.shape, g.shape[front:], strict=True)):
            raise ValueError(f"a rule returned a gradient of shape {g.shape} for an input of shape {vertex.shape}")
        stretched = [front + i for i, n in enumerate(vertex.shape) if n == 1]  # ... and repeats axes of length 1
        g = g.sum(axis=(*range(front), *stretched)).reshape(vertex.shape)
    if isinstance(g, np.generic):  # NumPy converts 0-d results to scalars
        g = np.asarray(g)
    return g if g.dtype == vertex.dtype else g.astype(vertex.dtype)
