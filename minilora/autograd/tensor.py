"""A Tensor is an array that remembers how it was made. Read this file first, then `engine.py`.

An *op* is a plain function on arrays that returns its output and, for each input, a rule that pulls a gradient
back through it. The decorator `op` lets such a function take Tensors: it runs the function on their arrays and
notes beside the output, in a `Node` (see `engine.py`), which inputs it came from. These notes are all the graph
there is. A *place* in it is a node, or a leaf: where gradients arrive.

An input that needs no gradient is not an edge of the graph: its rule is never called. This one fact is why LoRA
never computes the gradient of a frozen weight. (A rule is what the literature calls a vector-Jacobian product.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minilora.autograd import engine
from minilora.autograd.engine import JointRule, Node, Place
from minilora.backend import Array

OPS: dict[str, Callable[..., Tensor]] = {}
"""Every op by name. The tests walk it: an op without a test fails the suite."""

_recording: ContextVar[bool] = ContextVar("recording", default=True)
_holding: ContextVar[Callable[[Any], Any] | None] = ContextVar("holding", default=None)


class Tensor:
    """An array with a gradient.

    Parameters
    ----------
    data : array, number or nested list
        Arrays keep their dtype; numbers and lists become float32, the type that training runs in.
    requires_grad : bool
        Whether gradients are wanted here.

    Attributes
    ----------
    data : the array; the rules use it, so do not change it in place between an op and `backward`
    grad : the gradient array that `backward` accumulated, or None
    node : how it was made; None for a leaf, which nobody made, and where nothing was recorded
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")
    birth = 0  # a leaf is older than every node
    __array_ufunc__ = None  # array + tensor comes to Tensor.__radd__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise TypeError("expected an array to make a Tensor of, got a Tensor; use it as it is, or its .data")
        self.data: Array = data if hasattr(data, "dtype") else np.asarray(data, dtype=np.float32)
        if isinstance(self.data, np.generic):
            self.data = np.asarray(self.data)
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors have gradients, this one is {self.data.dtype}")
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.node: Node | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def place(self) -> Place:
        """Where gradients of this tensor arrive in a graph: its node, or the leaf itself."""
        return self.node or self

    @property
    def edges(self) -> tuple[tuple[int, Place], ...]:
        """What it was made from, see `Node`; empty for a leaf."""
        return self.node.edges if self.node else ()

    @property
    def rules(self) -> tuple[Any, ...] | JointRule:
        """How gradients are pulled back to what it was made from, see `Node`."""
        return self.node.rules if self.node else ()

    @property
    def released(self) -> bool:
        """Whether its graph was freed by a backward pass."""
        return self.node is not None and self.node.released

    def item(self) -> float:
        """The value of a one-element tensor as a Python number."""
        return self.data.item()

    def detach(self) -> Tensor:
        """The same array without its history."""
        return Tensor(self.data)

    def backward(self, cotangent: Array | None = None) -> None:
        """Add d(self)/d(leaf) to `.grad` of every leaf, and free the graph. See `engine.backward`."""
        engine.backward(self, cotangent)

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.data, separator=', ', prefix='Tensor(')}{grad})"

    def __float__(self) -> float:
        return float(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise TypeError("NumPy was given a Tensor, which would lose its gradient; use a minilora op, or .data")

    # Each operator and method below is an op of `ops/`, found by its name.
    def __add__(self, other: Any) -> Tensor:
        return OPS["add"](self, other)

    def __radd__(self, other: Any) -> Tensor:
        return OPS["add"](other, self)

    def __sub__(self, other: Any) -> Tensor:
        return OPS["sub"](self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return OPS["sub"](other, self)

    def __mul__(self, other: Any) -> Tensor:
        return OPS["mul"](self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return OPS["mul"](other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return OPS["div"](self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return OPS["div"](other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return OPS["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return OPS["matmul"](other, self)

    def __neg__(self) -> Tensor:
        return OPS["neg"](self)

    def __pow__(self, exponent: float) -> Tensor:
        return OPS["power"](self, exponent)

    def __getitem__(self, key: Any) -> Tensor:
        return OPS["index"](self, key)

    @property
    def T(self) -> Tensor:
        return OPS["transpose"](self)

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return OPS["sum"](self, axis=axis, keepdims=keepdims)

    def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return OPS["mean"](self, axis=axis, keepdims=keepdims)

    def max(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return OPS["max"](self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: int | tuple[int, ...]) -> Tensor:
        return OPS["reshape"](self, shape[0] if isinstance(shape[0], tuple) else shape)

    def transpose(self, *axes: int | tuple[int, ...]) -> Tensor:
        return OPS["transpose"](self, axes[0] if axes and isinstance(axes[0], tuple) else axes or None)


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside this block nothing is recorded: `with no_grad(): ...`, or `@no_grad()` over a function.

    It holds for the thread that enters it; another thread records until it enters one of its own. (What
    `threads.py` hands to its threads is computed as where it was handed over.)
    """
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def recording() -> bool:
    """Whether ops note what they were made from: outside `no_grad`."""
    return _recording.get()


def stop_gradient(value: Any) -> Any:
    """`value` as a constant: no gradient goes through it. A Tensor, or an array such as the indices of a choice.

    A derivative that takes part of a function for constant is not the function's slope. `gradcheck` therefore holds
    these values while it moves the inputs.
    """
    constant = value.detach() if isinstance(value, Tensor) else value
    hold = _holding.get()
    return constant if hold is None else hold(constant)


@contextmanager
def holding(hold: Callable[[Any], Any]) -> Iterator[None]:
    """Inside this block, what `stop_gradient` is given goes through `hold`."""
    token = _holding.set(hold)
    try:
        yield
    finally:
        _holding.reset(token)


def op(function: Callable[..., tuple[Any, Any]]) -> Callable[..., Tensor]:
    """Let a function on arrays take Tensors, and register it in `OPS`.

    `function(*inputs, **options)` returns `(output, rules)`. `rules` has one function per input, gradient of the
    output in, gradient of that input out (in the broadcast shape: the engine sums it back); None for an input
    without a gradient. Where the gradients share most of their work, `rules` is instead one function that
    returns them all, and what is not needed is dropped. Raises ValueError for a name that an op of another file has.
    """
    name = function.__name__
    if name in OPS and OPS[name].__module__ != function.__module__:  # the operators would find the wrong one
        raise ValueError(f"there is an op {name!r} already, in {OPS[name].__module__}; choose another name")

    @functools.wraps(function)
    def apply(*inputs: Any, **options: Any) -> Tensor:
        if options:
            if any(isinstance(x, Tensor) for x in options.values()):
                raise TypeError(f"{name} takes its tensors by position, so that gradients reach them; got one by name")
            options = {key: _plain(x) for key, x in options.items()}
        output, rules = function(*map(_array, inputs), **options)
        result = Tensor(output)
        if _recording.get():
            edges = tuple((i, x.place) for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad)
            if edges:
                result.node, result.requires_grad = Node(result.data, edges, rules), True
        return result

    OPS[name] = apply
    return apply


def _array(x: Any) -> Any:
    """What an op computes with."""
    return x.data if isinstance(x, Tensor) else _plain(x)


def _plain(x: Any) -> Any:
    """NumPy scalars become Python's, which never widen a float32 array."""
    return x.item() if isinstance(x, np.generic) else x
