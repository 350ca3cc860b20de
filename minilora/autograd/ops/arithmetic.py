"""Elementwise ops. Each returns its value and, for each input, a rule: the derivative times the incoming gradient g."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd.operation import op
from minilora.backend import Array


@op
def add(x: Array, y: Array) -> Any:
    """x + y, with broadcasting."""
    return x + y, (lambda g: g, lambda g: g)


@op
def sub(x: Array, y: Array) -> Any:
    """x - y, with broadcasting."""
    return x - y, (lambda g: g, lambda g: -g)


@op
def mul(x: Array, y: Array) -> Any:
    """x * y, with broadcasting."""
    return x * y, (lambda g: g * y, lambda g: g * x)


@op
def div(x: Array, y: Array) -> Any:
    """x / y, with broadcasting."""
    quotient = x / y
    return quotient, (lambda g: g / y, lambda g: -g * quotient / y)


@op
def neg(x: Array) -> Any:
    """-x."""
    return -x, (lambda g: -g,)


@op
def power(x: Array, exponent: float) -> Any:
    """x ** p for a number p. For a tensor p, use exp(p * log(x))."""
    if not isinstance(exponent, int | float):
        raise TypeError(f"expected the exponent p to be a number, got {type(exponent).__name__}; use exp(p * log(x))")
    # For p = 0, the formula would give 0 * x**-1, which is nan at x = 0.
    return x**exponent, (lambda g: g * (exponent * x ** (exponent - 1) if exponent else 0),)


@op
def exp(x: Array) -> Any:
    """e ** x."""
    y = np.exp(x)
    return y, (lambda g: g * y,)


@op
def log(x: Array) -> Any:
    """Natural logarithm."""
    return np.log(x), (lambda g: g / x,)


@op
def sqrt(x: Array) -> Any:
    """Square root."""
    y = np.sqrt(x)
    return y, (lambda g: g / (2 * y),)


@op
def tanh(x: Array) -> Any:
    """Hyperbolic tangent; its derivative is 1 - tanh(x)² = 4t / (1 + t)² with t = e**(-2|x|), which does not cancel."""

    def pull(g: Array) -> Array:
        t = np.exp(-2 * np.abs(x))
        return g * (4 * t / ((1 + t) * (1 + t)))

    return np.tanh(x), (pull,)


@op
def relu(x: Array) -> Any:
    """max(x, 0); the derivative at 0 is defined as 0."""
    return np.maximum(x, 0), (lambda g: g * (x > 0),)


@op
def sigmoid(x: Array) -> Any:
    """s(x) = 1 / (1 + e**-x); its derivative is s(x) s(-x)."""
    s = logistic(x)
    return s, (lambda g: g * (s * logistic(-x)),)


@op
def silu(x: Array) -> Any:
    """x * sigmoid(x); its derivative is s(1 + x(1 - s))."""
    s = logistic(x)
    return x * s, (lambda g: g * (s * (1 + x * logistic(-x))),)


@op
def where(condition: Any, x: Array, y: Array) -> Any:
    """x where the condition is true, else y. The condition is a boolean array, not a Tensor."""
    return np.where(condition, x, y), (
        None,
        lambda g: np.where(condition, g, 0),
        lambda g: np.where(condition, 0, g),
    )


def logistic(x: Array) -> Array:
    """The sigmoid of an array, 1 / (1 + e**-x), with a small relative error in both tails."""
    x = floating(x)
    with np.errstate(over="ignore"):
        s = np.negative(x, out=np.empty_like(x))
        np.exp(s, out=s)
        s += 1
        np.reciprocal(s, out=s)
    if s.size and not s.min() > np.finfo(s.dtype).tiny:  # e**-x overflowed; here s(x) equals e**x
        s = np.where(x < -80, np.exp(np.minimum(x, 0)), s)
    return s


def floating(x: Array) -> Array:
    """An array as floating-point numbers: integers become float32."""
    if not hasattr(x, "dtype"):
        return np.asarray(x, dtype=np.float32)
    return x if x.dtype.kind in "fc" else x.astype(np.float32)
