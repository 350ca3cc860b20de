"""Test functions for the laws of differentiation: every op, and helpers that draw ops and their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from minilora.autograd import Tensor, gradients, ops
from minilora.backend import Array
from minilora.laws.kit.case import Case

Function: TypeAlias = Callable[..., Tensor]

# Functions of one input that preserve its shape. Some use x twice, at different depths of the graph.
CURVES: dict[str, Function] = {
    "-x": lambda x: -x,
    "x x": lambda x: x * x,
    "tanh(x)": lambda x: ops.tanh(x),
    "x tanh(x)": lambda x: x * ops.tanh(x),
    "silu(x)": lambda x: ops.silu(x),
    "exp(x/4)": lambda x: ops.exp(0.25 * x),
    "softmax(x)": lambda x: ops.softmax(x),
    "x - mean(x)": lambda x: x - x.mean(axis=-1, keepdims=True),
}


def rotated(x: Tensor) -> Tensor:
    """Apply rotary embeddings for positions 0, 1, ... to x (B, T, H, 4)."""
    angles = np.arange(x.shape[1])[:, None, None] * np.array([1.0, 0.1])
    return ops.rotary(x, np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype))


def without_ties(x: Tensor) -> Tensor:
    """Add 0.1 i to entry i of the last axis, so that equal integers become distinct and the maximum is unique."""
    return x + Tensor((0.1 * np.arange(x.shape[-1])).astype(x.dtype))


def repeated(n: int) -> Array:
    """The ids 0 to n - 1, followed by another 0, so that one id is repeated."""
    return np.arange(n + 1) % n


# Each op with the shapes of its inputs, one character per axis: a letter is a length to draw, a digit a fixed length.
OPERATIONS: dict[str, tuple[Function, str]] = {
    "mul": (lambda x, y: x * y, "nm,nm"),
    "matmul": (lambda x, y: x @ y, "nm,mk"),
    "linear": (lambda x, w: ops.linear(x, w), "nm,km"),
    "rms_norm": (lambda x, w: ops.rms_norm(x, w), "nm,m"),
    "silu_gate": (lambda x, y: ops.silu_gate(x, y), "nm,nm"),
    "sub": (lambda x, y: x - y, "nm,m"),
    "div": (lambda x, y: x / (y * y + 0.5), "nm,nm"),
    "where": (lambda x, y: ops.where(np.eye(*x.shape, dtype=bool), x, y), "nm,nm"),
    "neg": (lambda x: -x, "nm"),
    "power": (lambda x: (x * x + 0.5) ** 1.5, "nm"),
    "exp": (lambda x: ops.exp(0.5 * x), "nm"),
    "log": (lambda x: ops.log(x * x + 0.5), "nm"),
    "sqrt": (lambda x: ops.sqrt(x * x + 0.5), "nm"),
    "tanh": (lambda x: ops.tanh(x), "nm"),
    "relu": (lambda x: ops.relu(x), "nm"),
    "sigmoid": (lambda x: ops.sigmoid(x), "nm"),
    "silu": (lambda x: ops.silu(x), "nm"),
    "sum": (lambda x: x.sum(axis=0), "nm"),
    "mean": (lambda x: x.mean(axis=-1, keepdims=True), "nm"),
    "max": (lambda x: ops.max(without_ties(x), axis=-1), "nm"),
    "reshape": (lambda x: x.reshape(-1, x.shape[0]), "nm"),
    "transpose": (lambda x: x.transpose(1, 2, 0), "nmk"),
    "concatenate": (lambda x, y: ops.concatenate(x, y, axis=1), "nm,nk"),
    "index": (lambda x: x[repeated(x.shape[0])], "nm"),
    "slice": (lambda x: x[:, 1:], "nm"),
    "embedding": (lambda w: ops.embedding(w, repeated(w.shape[0])), "nm"),
    "dropout": (lambda x: ops.dropout(x, 0.5, np.random.default_rng(0)), "nm"),
    "rotary": (rotated, "1n24"),
    "softmax": (lambda x: ops.softmax(x), "nm"),
    "cross_entropy": (lambda x: ops.cross_entropy(x, np.arange(x.shape[0]) % x.shape[1]), "nm"),
    "lora_linear": (lambda x, w, A, B: ops.lora_linear(x, w, A, B, scale=0.5), "kn,mn,2n,m2"),
    "causal_attention": (lambda q, k, v: ops.causal_attention(q, k, v), "12nm,11nm,11nm"),
}
ONE_OP_OF_TWO_INPUTS = {name: OPERATIONS[name] for name in ("mul", "matmul", "linear", "rms_norm", "silu_gate")}

# Ops that are linear in their first input, with the other inputs held constant.
LINEAR: dict[str, tuple[Function, str]] = {
    **{name: OPERATIONS[name] for name in ("mul", "matmul", "linear", "neg", "sum", "mean", "reshape", "transpose")},
    **{name: OPERATIONS[name] for name in ("index", "slice", "embedding", "dropout", "rotary")},
    "matmul in its right operand": (lambda y, x: x @ y, "mk,nm"),
    "linear in its weight": (lambda w, x: ops.linear(x, w), "km,nm"),
    "concatenate": (lambda x: ops.concatenate(x, 2 * x, axis=1), "nm"),
}


# The fused ops as compositions of basic ops.
COMPOSED: dict[str, Function] = {
    "softmax": lambda x: plain_softmax(x),
    "cross_entropy": lambda x: plain_cross_entropy(x),
    "rms_norm": lambda x, w: w * x / ops.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6),
    "silu": lambda x: x / (1 + ops.exp(-x)),
    "silu_gate": lambda gate, up: gate / (1 + ops.exp(-gate)) * up,
    "linear": lambda x, w: x @ w.T,
    "lora_linear": lambda x, w, A, B: x @ (w + 0.5 * (B @ A)).T,
    "embedding": lambda w: Tensor(np.eye(w.shape[0], dtype=w.dtype)[repeated(w.shape[0])]) @ w,
    "rotary": lambda x: plain_rotated(x),
}


def plain_softmax(x: Tensor) -> Tensor:
    e = ops.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


def plain_cross_entropy(x: Tensor) -> Tensor:
    targets = np.arange(x.shape[0]) % x.shape[1]
    return -ops.log(plain_softmax(x)[np.arange(x.shape[0]), targets]).mean()


def plain_rotated(x: Tensor) -> Tensor:
    """Rotate each pair (xᵢ, xᵢ₊₂) by its angle, as a matrix product for each position."""
    matrices = np.zeros((x.shape[1], 4, 4))
    for position, matrix in enumerate(matrices):
        for i, frequency in enumerate([1.0, 0.1]):
            cos, sin = np.cos(position * frequency), np.sin(position * frequency)
            matrix[i, i], matrix[i, i + 2], matrix[i + 2, i], matrix[i + 2, i + 2] = cos, sin, -sin, cos
    return x @ Tensor(matrices.astype(x.dtype))


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention from all scores: zero weight for later tokens, and keys and values repeated for each group."""
    (_, H, T, D), (_, G, S, _) = q.shape, k.shape
    serves = np.repeat(np.arange(G), H // G)  # the key head of each query head
    seen = np.arange(S) <= np.arange(S - T, S)[:, None]
    e = ops.where(seen, ops.exp(q @ k[:, serves].transpose(0, 1, 3, 2) / D**0.5), Tensor(np.zeros((), q.dtype)))
    return e / e.sum(axis=-1, keepdims=True) @ v[:, serves]


def draw_arrays(case: Case, shapes: str, lengths: dict[str, int] | None = None) -> list[Array]:
    """Draw an array for each of the shapes, in the notation of OPERATIONS; the lengths are drawn unless given."""
    lengths = lengths or {c: case.size(c, 1, 4) for c in dict.fromkeys(shapes) if c.isalpha()}
    sides = [[int(c) if c.isdigit() else lengths[c] for c in shape] for shape in shapes.split(",")]
    return [case.array(name, *side) for name, side in zip("xyzw"[: len(sides)], sides, strict=True)]


def draw_operations(case: Case, table: dict[str, tuple[Function, str]]) -> Iterator[tuple[Function, list[Array]]]:
    """Yield up to eight ops of a table in random order, each with drawn inputs."""
    lengths = {c: case.size(c, 1, 4) for c in "nmk"}
    common = case.drawn
    for name in case.rng.permutation(list(table))[:8]:
        function, shapes = table[name]
        case.drawn = {**common, "op": str(name)}  # a counterexample shows the op that failed
        yield function, draw_arrays(case, shapes, lengths)


def draw_curve(case: Case, name: str) -> Function:
    return CURVES[case.choice(name, list(CURVES))]


def leaf(array: Array) -> Tensor:
    """A tensor with a copy of `array` that requires gradients."""
    return Tensor(array.copy(), requires_grad=True)


def pull(function: Function, inputs: list[Array], g: Array) -> list[Array]:
    """The pull-back f*(g), one array for each input."""
    leaves = [leaf(x) for x in inputs]
    return gradients(function(*leaves), leaves, g)
