"""The decorator `op`: a function on arrays and its derivative become an op on Tensors. Read `tensor.py` first."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from minilora.autograd import tensor
from minilora.autograd.engine import Node
from minilora.autograd.tensor import Tensor, operand, recording
from minilora.autograd.values import plain
from minilora.backend import Array


def op(function: Callable[..., tuple[Any, Any]]) -> Callable[..., Tensor]:
    """Decorate a function on arrays to accept Tensors, and register it in `OPS`.

    `function(*inputs, **options)` returns `(output, rules)`. `rules` has one function per input, which maps the
    gradient of the output to the gradient of that input (in the broadcast shape: the engine sums over broadcast axes),
    or None for an input without a gradient. If the gradients share most of their work, `rules` is instead one function
    that returns all of them, and those not needed are discarded. Raises ValueError if an op in a different module has
    the same name.
    """
    name = function.__name__
    known = tensor.OPS.get(name)
    if known and known.__module__ != function.__module__:  # the operators would call the wrong op
        raise ValueError(f"an op named {name!r} already exists in {known.__module__}; choose another name")
    takes_array = _array_parameters(function)

    @functools.wraps(function)
    def apply(*inputs: Any, **options: Any) -> Tensor:
        if options:  # no gradients flow through these
            if any(isinstance(x, Tensor) for x in options.values()):
                raise TypeError(f"{name}() accepts tensors only as positional arguments, got one by keyword")
            options = {key: plain(x) for key, x in options.items()}
        if takes_array.any_number and len(inputs) == 1 and isinstance(inputs[0], list | tuple):
            inputs = tuple(inputs[0])
        output, rules = function(*_arrays(inputs, takes_array), **options)
        result = Tensor(output)
        if recording():
            edges = tuple((i, x.vertex) for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad)
            if edges:
                result.node, result._requires_grad = Node(result.data, edges, rules), True
        return result

    tensor.OPS[name] = apply
    return apply


class _ArrayParameters(NamedTuple):
    """Which positional parameters of an op are arrays: by position, and all others if `any_number`."""

    positions: frozenset[int]
    any_number: bool


def _array_parameters(function: Callable[..., Any]) -> _ArrayParameters:
    """The parameters annotated with Array. Inputs for them may also be lists; those of other types are settings."""
    parameters = inspect.signature(function).parameters.values()
    arrays = [i for i, p in enumerate(parameters) if p.annotation in (Array, "Array")]
    return _ArrayParameters(frozenset(arrays), any(p.kind is p.VAR_POSITIONAL for p in parameters))


def _arrays(inputs: tuple[Any, ...], takes: _ArrayParameters) -> list[Any]:
    """The arrays and settings to call an op's function with. Lists get the dtype of the tensors, or float32."""
    found: list[Any] = []
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor):
            found.append(x.data)
        elif takes.any_number or i in takes.positions:
            found.append(operand(x, next((y for y in inputs if isinstance(y, Tensor)), None)))
        else:
            found.append(plain(x))
    return found
